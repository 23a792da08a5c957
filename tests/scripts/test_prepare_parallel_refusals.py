"""Faulty parallel text and settings: each is refused by name and place, and no stage is left half done."""

import sys
import sysconfig

import pytest

from tests.scripts.parallel_corpus import Corpus, assert_refused


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return Corpus(tmp_path / "raw", tmp_path / "out")


def test_unequal_line_counts_are_refused_with_both_counts(corpus):
    corpus.write("valid", "de", corpus.lines("valid", "de")[:-1])
    assert_refused(corpus, "valid.en has 10 lines", "valid.de has 9")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_an_empty_line_in_valid_or_test_is_refused_by_file_and_line(corpus, split):
    corpus.set_line(split, "de", 4, "\x01 ")
    assert_refused(corpus, f"{split}.de:4", "empty line")


def test_a_line_of_ten_thousand_tokens_in_test_is_refused_by_line(corpus):
    corpus.set_line("test", "en", 3, "word " * 10_000)
    assert_refused(corpus, "test.en:3", "sub-words")


@pytest.mark.parametrize(
    ("split", "line", "symbol", "escaped", "lowercase"),
    [
        ("train", "<s> Der Hund", "<s>", "&lt;s&gt;", "0"),
        ("valid", "Der Hund.</s>", "</s>", "&lt;/s&gt;", "0"),
        ("test", "Der <PAD> Hund", "<pad>", "&lt;pad&gt;", "1"),
    ],
)
def test_a_control_symbol_in_tokenised_text_is_refused_by_file_and_line(corpus, split, line, symbol, escaped, lowercase):
    corpus.set_line(split, "de", 4, line)
    message = f"{split}.de:4: {symbol} is a control symbol of fairseq's; remove it or write {escaped}"
    assert_refused(corpus, message, TOKENIZED="1", LOWERCASE=lowercase)


@pytest.mark.parametrize("split", ["train", "test"])
def test_invalid_utf8_is_refused_by_file_and_line(corpus, split):
    lines = corpus.path(split, "de").read_bytes().split(b"\n")
    lines[4] = "Männer".encode("latin-1")
    corpus.path(split, "de").write_bytes(b"\n".join(lines))
    assert_refused(corpus, f"{split}.de:5", "UTF-8", "0xe4")


def test_an_empty_file_is_refused_by_name(corpus):
    corpus.path("train", "en").write_bytes(b"")
    assert_refused(corpus, "train.en", "empty")


def test_a_missing_file_is_refused_by_name(corpus):
    corpus.path("valid", "de").unlink()
    assert_refused(corpus, "valid.de", "no such file")


def test_a_corpus_of_which_nothing_is_left_is_refused_with_the_reasons(corpus):
    corpus.write("train", "en", [""] * 60)
    assert_refused(corpus, "no pair is left", "empty 60")


def test_a_corpus_of_which_no_pair_fits_into_the_positions_is_refused(corpus):
    for language in ("en", "de"):
        corpus.write("train", language, ["ab " * 1023] * 60)
    assert_refused(corpus, "no pair is left, each of 60 has more than 1,022 sub-words", MAX_LENGTH="2000")


@pytest.mark.parametrize("name", ["SRCDICT", "TGTDICT", "CODES"])
def test_a_missing_dictionary_or_codes_file_is_refused_by_name(corpus, name, tmp_path):
    assert_refused(corpus, f"{name}={tmp_path / 'missing'}", "no such file", **{name: str(tmp_path / "missing")})


def test_a_file_that_is_no_dictionary_is_refused_by_line(corpus):
    assert_refused(corpus, "train.en:1", "dictionary", SRCDICT=str(corpus.path("train", "en")))


def test_a_file_that_is_no_codes_is_refused_by_line(corpus):
    assert_refused(corpus, "train.en:1", "BPE codes", CODES=str(corpus.path("train", "en")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BPE_OPERATIONS", "many"),
        ("BPE_OPERATIONS", "0"),
        ("MAX_LENGTH", "-1"),
        ("MAX_RATIO", "0.5"),
        ("WORKERS", "0"),
        ("LOWERCASE", "yes"),
        ("NORMALIZE", "2"),
        ("CORPUS", "two\nlines"),
        ("TARGET_LANG", "en"),
        ("SOURCE_LANG", "en.x"),
        ("TARGET_LANG", "de+y"),
        ("TARGET_LANG", "-de"),
        ("DATA", ""),
        ("DATA", "/nowhere"),
        ("OUT", ""),
    ],
)
def test_a_bad_setting_is_refused_by_name(corpus, name, value):
    assert_refused(corpus, name, value, **{name: value})


def test_a_sentence_that_the_binariser_loses_is_noticed(corpus, tmp_path):
    tools = tmp_path / "environment/bin"
    tools.mkdir(parents=True)
    (tools / "python").symlink_to(sys.executable)
    (tools / "fairseq-preprocess").write_text("#!/bin/sh\necho '| [en] bpe/train.en: 59 sents, 300 tokens'\n")
    (tools / "fairseq-preprocess").chmod(0o755)
    modules = sysconfig.get_path("purelib")
    assert_refused(corpus, "train.en: 60 lines in, 59 sentences out", MOMENTUM_ENV=str(tools.parent), PYTHONPATH=modules)


def test_punctuation_of_tokenised_text_is_not_normalised(corpus):
    assert_refused(corpus, "NORMALIZE=1 and TOKENIZED=1", NORMALIZE="1", TOKENIZED="1")
