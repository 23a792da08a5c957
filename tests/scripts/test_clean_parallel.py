"""What the cleaning of parallel text keeps at its limits, and which words it refuses, called in this process."""

import pytest
from clean_parallel import LINE_BREAKS, reason_to_drop, refuse_control_symbols, tokenize
from common.parallel_text import InputError, decode_lines


def words(count: int, letters: int = 1) -> str:
    return " ".join(["x" * letters] * count)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (words(10), words(10), None),
        (words(11), words(10), "too_long"),
        (words(10), words(11), "too_long"),
        (words(9), words(3), None),
        (words(10), words(3), "ratio"),
        (words(3), words(10), "ratio"),
        ("", words(3), "empty"),
        (words(3), "", "empty"),
        ("", "", "empty"),
        ("x" * 200, "x", None),  # 20 characters for each of the ten words
        ("x" * 201, "x", "too_long"),
        ("x", "x" * 201, "too_long"),
    ],
)
def test_a_pair_at_a_limit_is_kept_and_one_beyond_it_goes(source, target, reason):
    assert reason_to_drop(source, target, max_length=10, max_ratio=3.0) == reason


@pytest.mark.parametrize("line", ["<s>", "</s> a", "a <pad> b", "a</s>", "a</s> b"])
def test_a_word_that_ends_in_a_control_symbol_is_refused(line):
    with pytest.raises(InputError, match="train.de:2: .* is a control symbol"):
        refuse_control_symbols("train.de", ["a b", line])


def test_other_words_with_angles_are_taken():
    refuse_control_symbols("train.de", ["<s>a", "<unk> &lt;s&gt; < s >", "<S> <b>"])


@pytest.mark.parametrize("separator", "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_whatever_python_ends_a_line_at_ends_none_in_references(separator):
    assert len(f"a{separator}b".splitlines()) == 2
    assert LINE_BREAKS.sub(" ", f"a{separator}b") == "a b"
    assert tokenize(f"a{separator}b", "en", normalize=False, tokenized=True, lowercase=False) == "a b"


def test_control_characters_go_and_white_space_is_one_space():
    text = "A\u00a0 \tB\x00\x07C \x01 D "
    assert tokenize(text, "en", normalize=False, tokenized=True, lowercase=False) == "A BC D"
    assert tokenize(text, "en", normalize=False, tokenized=True, lowercase=True) == "a bc d"


def test_a_byte_order_mark_and_carriage_returns_at_line_ends_are_no_text():
    assert decode_lines("train.de", "\ufeffa\r\nb\rc\n\nd".encode()) == ["a", "b\rc", "", "d"]
