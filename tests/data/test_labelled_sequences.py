"""Labelled sequences on disk: what is written comes back, without a copy, and nothing damaged is read."""

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from momentum_fairseq.data.labelled_sequences import LabelledSequences, SequenceError, SequenceWriter, verify

SEQUENCES = [[3, 0, 0, 5], [1], [0, 299]]
SECOND = [[7], [8, 9, 10, 11, 12], [2, 2]]
LABELS = [2, 0, 1]


def flat(sequences: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([np.array(sequence) for sequence in sequences]), np.array([len(sequence) for sequence in sequences])


def write(folder: Path, *parts: list[list[int]], vocabulary: int = 300) -> Path:
    writer = SequenceWriter(folder, vocabulary, classes=3, parts=len(parts))
    for split in ("train", "dev"):
        writer.write(split, np.array(LABELS), *map(flat, parts), made_of="lists")
    writer.finish(seed=1)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "set", SEQUENCES)


@pytest.mark.parametrize(("vocabulary", "kept_as"), [(256, "uint8"), (257, "uint16")])
def test_what_is_written_is_read_in_the_narrowest_type(tmp_path, vocabulary, kept_as):
    sequences = [[value % 256 for value in sequence] for sequence in SEQUENCES]
    read = LabelledSequences(write(tmp_path, sequences, vocabulary=vocabulary), "train")
    assert [(tokens.tolist(), label) for tokens, label in read] == list(zip(sequences, LABELS, strict=True))
    assert all(tokens.dtype == torch.int64 for tokens, _ in read)
    assert np.load(tmp_path / "train.tokens.npy").dtype == kept_as
    assert (len(read), read.vocabulary, read.classes) == (3, vocabulary, 3)
    assert read.sizes.tolist() == [4, 1, 2]


def test_pairs_have_the_size_of_their_longer_part(tmp_path):
    read = LabelledSequences(write(tmp_path, SEQUENCES, SECOND), "dev")
    assert [(a.tolist(), b.tolist(), label) for a, b, label in read] == list(zip(SEQUENCES, SECOND, LABELS, strict=True))
    assert read.sizes.tolist() == [4, 5, 2]
    assert read.lengths.tolist() == [[4, 1, 2], [1, 5, 2]]


def test_tokens_are_mapped_and_a_process_started_afresh_maps_them_itself(folder):
    read = LabelledSequences(folder, "train")
    assert isinstance(read.parts[0][0], np.memmap)
    packed = pickle.dumps(read)
    assert len(packed) < 500
    again = pickle.loads(packed)
    assert isinstance(again.parts[0][0], np.memmap)
    assert again[2][0].tolist() == SEQUENCES[2]


def test_an_item_can_be_changed_without_changing_the_set(folder):
    read = LabelledSequences(folder, "train")
    read[0][0].zero_()
    assert read[0][0].tolist() == SEQUENCES[0]


def test_meta_says_counts_lengths_checksums_and_facts(folder):
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["seed"], meta["longest"], meta["splits"]["train"]["made_of"]) == (1, 4, "lists")
    assert {key: meta["splits"]["dev"][key] for key in ("count", "tokens", "longest")} == {"count": 3, "tokens": 7, "longest": 4}
    assert set(meta["splits"]["dev"]["sha256"]) == {"dev.tokens.npy", "dev.offsets.npy", "dev.labels.npy"}
    verify(folder)


def test_a_set_that_is_being_written_anew_cannot_be_opened(folder):
    SequenceWriter(folder, 300, classes=3)
    with pytest.raises(SequenceError, match=r"meta\.json: no such file: not a prepared set, or not a whole one"):
        LabelledSequences(folder, "train")


def test_a_set_that_is_written_anew_does_not_change_for_those_who_have_it_open(folder):
    read = LabelledSequences(folder, "train")
    write(folder, [tokens[::-1] for tokens in SEQUENCES])
    assert read[0][0].tolist() == SEQUENCES[0]
    assert LabelledSequences(folder, "train")[0][0].tolist() == SEQUENCES[0][::-1]


def test_a_folder_is_not_whole_while_its_meta_is_written_in_part(folder, monkeypatch):
    def fill_the_disk(path: Path, text: str, **_: str) -> None:
        path.write_bytes(text[:20].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = SequenceWriter(folder, 300, classes=3)
    writer.write("train", np.array(LABELS), flat(SEQUENCES))
    monkeypatch.setattr(Path, "write_text", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        writer.finish()
    assert not (folder / "meta.json").exists()


def test_a_changed_byte_is_found_by_verify(folder):
    path = folder / "dev.tokens.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x02")
    with pytest.raises(SequenceError, match=r"dev\.tokens\.npy: not the file"):
        verify(folder)


@pytest.mark.parametrize("name", ["tokens", "offsets", "labels"])
def test_a_missing_file_is_refused_by_name(folder, name):
    (folder / f"train.{name}.npy").unlink()
    for check in (verify, lambda folder: LabelledSequences(folder, "train")):
        with pytest.raises(SequenceError, match=rf"train\.{name}\.npy: no such file; prepare"):
            check(folder)


@pytest.mark.parametrize("name", ["tokens", "offsets", "labels"])
@pytest.mark.parametrize("kept", [0, 40, -1])
def test_a_truncated_file_is_refused_by_name(folder, name, kept):
    path = folder / f"train.{name}.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SequenceError, match=rf"train\.{name}\.npy: truncated"):
        LabelledSequences(folder, "train")


def test_a_file_that_is_too_long_is_refused_by_name(folder):
    with (folder / "train.labels.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(SequenceError, match=r"train\.labels\.npy: 156 bytes, 152 expected"):
        LabelledSequences(folder, "train")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("labels", [2, 0], r"labels\.npy: 2 labels, 3 by meta"),
        ("labels", [2, 3, 1], r"labels\.npy: item 1 has label 3, not one of 0 to 2"),
        ("labels", [2, 0, -1], r"labels\.npy: item 2 has label -1"),
        ("labels", [2.0, 0.0, 1.0], r"labels\.npy: float64"),
        ("offsets", [0, 4, 7], r"offsets\.npy: 3 offsets, not the 4"),
        ("offsets", [0, 4, 5, 8], r"offsets\.npy: from 0 to 8, not from 0 to 7"),
        ("offsets", [1, 4, 5, 7], r"offsets\.npy: from 1 to 7, not from 0 to 7"),
        ("offsets", [0, 5, 4, 7], r"offsets\.npy: not ascending at item 1"),
        ("offsets", [0, 4, 4, 7], r"offsets\.npy: not ascending at item 1"),
        ("tokens", [3, 0, 0, 5, 1, 0, 299], r"tokens\.npy: int64 \[7\], not one row of uint8 or uint16"),
    ],
)
def test_files_that_disagree_are_refused_by_name(folder, name, array, message):
    np.save(folder / f"train.{name}.npy", np.array(array))
    with pytest.raises(SequenceError, match=message):
        LabelledSequences(folder, "train")


def test_a_token_that_is_none_of_the_vocabulary_is_refused_where_it_is_read(tmp_path):
    folder = write(tmp_path / "set", SEQUENCES, SECOND)
    tokens = np.load(folder / "train.tokens2.npy")
    tokens[3] = 301
    np.save(folder / "train.tokens2.npy", tokens)
    read = LabelledSequences(folder, "train")
    assert len(read[0]) == 3
    with pytest.raises(SequenceError, match="train.tokens2.npy: damaged: item 1 has token 301, not one of 0 to 299; prepare"):
        read[1]


def test_a_split_or_item_that_is_not_there_is_refused(folder):
    with pytest.raises(SequenceError, match=r"no split 'test'; it has train, dev"):
        LabelledSequences(folder, "test")
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"items 0 to 2, none {index}"):
            LabelledSequences(folder, "train")[index]


@pytest.mark.parametrize("text", ["{", '{"vocabulary": 3}'])
def test_a_damaged_meta_is_refused(folder, text):
    (folder / "meta.json").write_text(text)
    with pytest.raises(SequenceError, match=r"meta\.json: (damaged|no entry classes, parts, splits)"):
        LabelledSequences(folder, "train")


@pytest.mark.parametrize(
    ("labels", "sequences", "message"),
    [
        ([3], [[1]], "labels from 3 to 3, not 0 to 2"),
        ([-1], [[1]], "labels from -1 to -1, not 0 to 2"),
        ([1, 1], [[1]], "1 lengths of 1 tokens for 2 labels"),
        ([1, 1], [[1], []], "item 1 is empty"),
        ([1], [[300]], "tokens from 300 to 300, not 0 to 299"),
        ([1], [[-1]], "tokens from -1 to -1"),
        ([], [[]], "0 labels"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, labels, sequences, message):
    writer = SequenceWriter(tmp_path / "set", 300, classes=3)
    with pytest.raises(SequenceError, match=message):
        writer.write("train", np.array(labels), flat(sequences))
    assert list((tmp_path / "set").iterdir()) == []
