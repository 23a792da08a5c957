"""Importing IMDb, CIFAR-10 in grey and AAN: small files of the published layouts, and faulty ones."""

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from common import sequence_sets

from momentum_fairseq.data.labelled_sequences import LabelledSequences
from tests.scripts.lra_scripts import call, checksums

SPLITS = ("train", "dev", "test")
REVIEWS = 12  # of each source, half of each label


def texts(folder: Path, split: str) -> list[tuple[bytes, int]]:
    return [(bytes(tokens.tolist()), label) for tokens, label in LabelledSequences(folder, split)]


def review(source: str, number: int) -> tuple[int, int, bytes]:
    """Label, rating and text."""
    label = number % 2
    return label, (1 + number % 4, 7 + number % 4)[label], f"{source} {number} ünd <br />".encode() + b"x" * number


def write_table(data: Path, change: Callable[[bytes], bytes] = lambda text: text) -> Path:
    data.mkdir(exist_ok=True)
    for source in ("train", "test"):
        lines = [b"%d\t%d\t%d\t%s\n" % (*review(source, n)[:2], n, review(source, n)[2]) for n in range(REVIEWS)]
        content = b"".join(lines)
        (data / f"{source}.tsv.xz").write_bytes(lzma.compress(change(content) if source == "train" else content))
    return data


def write_folders(data: Path) -> Path:
    for source in ("train", "test"):
        for number in range(REVIEWS):
            label, rating, text = review(source, number)
            path = data / "aclImdb" / source / ("neg", "pos")[label] / f"{number}_{rating}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
    return data


def import_imdb(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, *arguments: object) -> int | str:
    counts = ("--counts", 8, 4, 12, "--expect", REVIEWS, REVIEWS)
    return call(monkeypatch, "import_imdb", data, out, *counts, *arguments)


@pytest.mark.parametrize("write", [write_table, write_folders])
def test_reviews_are_bytes_and_dev_is_split_off_the_training_set_in_proportion(tmp_path, monkeypatch, write):
    assert import_imdb(monkeypatch, write(tmp_path / "data"), tmp_path / "set") == 0
    read = {split: texts(tmp_path / "set", split) for split in SPLITS}
    wanted = {source: [review(source, n)[::-2] for n in range(REVIEWS)] for source in ("train", "test")}
    assert sorted(read["train"] + read["dev"]) == sorted(wanted["train"])
    assert sorted(read["test"]) == sorted(wanted["test"])
    assert [sum(label for _, label in read[split]) for split in SPLITS] == [4, 2, 6]


def test_the_seed_decides_what_goes_to_dev(tmp_path, monkeypatch):
    data = write_table(tmp_path / "data")
    for seed in (1, 2):
        assert import_imdb(monkeypatch, data, tmp_path / str(seed), "--seed", seed) == 0
    assert texts(tmp_path / "1", "dev") != texts(tmp_path / "2", "dev")
    assert texts(tmp_path / "1", "test") == texts(tmp_path / "2", "test")


def test_nothing_is_cut_unless_asked_for_and_what_is_cut_is_counted(tmp_path, monkeypatch):
    data = write_table(tmp_path / "data")
    assert import_imdb(monkeypatch, data, tmp_path / "whole") == 0
    assert import_imdb(monkeypatch, data, tmp_path / "cut", "--max-length", 24) == 0
    whole, cut = (texts(tmp_path / name, "test") for name in ("whole", "cut"))
    assert [(text[:24], label) for text, label in whole] == cut
    facts = json.loads((tmp_path / "cut" / "meta.json").read_text())["splits"]["test"]
    over = [len(text) - 24 for text, _ in whole if len(text) > 24]
    assert (facts["texts_cut"], facts["bytes_cut"]) == (len(over), sum(over)) and over
    assert "texts_cut" not in json.loads((tmp_path / "whole" / "meta.json").read_text())["splits"]["test"]


def test_a_second_import_does_nothing_and_changed_reviews_are_noticed(tmp_path, monkeypatch, capsys):
    data = write_table(tmp_path / "data")
    assert import_imdb(monkeypatch, data, tmp_path / "set") == 0
    before = checksums(tmp_path / "set")
    assert import_imdb(monkeypatch, data, tmp_path / "set") == 0
    assert "stands, nothing to do" in capsys.readouterr().out
    write_table(data, lambda content: content.replace(b"train 3", b"other 3"))
    assert "made with other settings (sha256" in import_imdb(monkeypatch, data, tmp_path / "set")
    assert checksums(tmp_path / "set") == before


def test_a_truncated_set_does_not_stand(tmp_path, monkeypatch):
    data, file = write_table(tmp_path / "data"), tmp_path / "set" / "dev.tokens.npy"
    assert import_imdb(monkeypatch, data, tmp_path / "set") == 0
    file.write_bytes(file.read_bytes()[:-1])
    assert "dev.tokens.npy: truncated" in import_imdb(monkeypatch, data, tmp_path / "set")


def test_a_fingerprint_is_of_names_and_contents_wherever_they_lie(tmp_path):
    found = []
    for folder, name, text in (("a", "1_7", "x"), ("b", "1_7", "x"), ("a", "1_8", "x"), ("a", "1_7", "y")):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        found.append(sequence_sets.fingerprint([path], tmp_path / folder))
    assert found[0] == found[1] and len(set(found)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-3], "train.tsv.xz:12: the last line has no end"),
        (lambda content: content[: content.rindex(b"1\t8\t1")], "train has 1 reviews, 0 of them positive; 12, half of them"),
        (lambda content: content + b"0\t1\t12\tone more\n", "train has 13 reviews, 6 of them positive"),
        (lambda content: content.replace(b"0\t1\t0\t", b"pos\t1\t0\t"), "train.tsv.xz:1: label 'pos', rating '1'"),
        (lambda content: content.replace(b"0\t1\t0\t", b"2\t1\t0\t"), "train.tsv.xz:1: label '2', rating '1'"),
        (lambda content: content.replace(b"1\t8\t1\t", b"1\t3\t1\t"), "train.tsv.xz:2: label '1', rating '3'; negative is 0"),
        (lambda content: content.replace(b"1\t8\t1\t", b"1\t8\t"), "train.tsv.xz:2: 3 columns, not label, rating, id and text"),
        (lambda content: content + b"0\t1\t12\t \n", "train.tsv.xz:13: the text is empty"),
    ],
)
def test_a_faulty_table_is_refused_by_line(tmp_path, monkeypatch, change, message):
    assert message in import_imdb(monkeypatch, write_table(tmp_path / "data", change), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_missing_or_truncated_table_is_refused_by_name(tmp_path, monkeypatch):
    data = write_table(tmp_path / "data")
    packed = (data / "train.tsv.xz").read_bytes()
    (data / "train.tsv.xz").write_bytes(packed[:-20])
    assert "train.tsv.xz: not a whole .xz file" in import_imdb(monkeypatch, data, tmp_path / "set")
    (data / "train.tsv.xz").unlink()
    assert "neither train/pos, aclImdb/train/pos nor train.tsv.xz" in import_imdb(monkeypatch, data, tmp_path / "set")


def test_faulty_folders_of_reviews_are_refused_by_name(tmp_path, monkeypatch):
    data = write_folders(tmp_path / "data")
    path = data / "aclImdb" / "test" / "pos" / "5_8.txt"
    path.write_bytes(b"")
    assert "pos/5_8.txt: the text is empty" in import_imdb(monkeypatch, data, tmp_path / "set")
    path.unlink()
    assert "test has 11 reviews, 5 of them positive" in import_imdb(monkeypatch, data, tmp_path / "set")
    (path.parents[1] / "neg" / "50_1.txt").write_bytes(b"bad")
    assert "test has 12 reviews, 5 of them positive" in import_imdb(monkeypatch, data, tmp_path / "set")
    (path.parent / "5_2.txt").write_bytes(b"good")
    assert "pos/5_2.txt: label '1', rating '2'" in import_imdb(monkeypatch, data, tmp_path / "set")
    (path.parent / "good.txt").write_bytes(b"good")
    assert "pos/good.txt: not named <number>_<rating>.txt" in import_imdb(monkeypatch, data, tmp_path / "set")


def test_more_examples_than_there_are_are_refused(tmp_path, monkeypatch):
    message = import_imdb(monkeypatch, write_table(tmp_path / "data"), tmp_path / "set", "--counts", 10, 4, 12)
    assert "data, train: 12 examples, too few for 4 + 10" in message


def test_fewer_examples_are_drawn_in_proportion(tmp_path, monkeypatch):
    assert import_imdb(monkeypatch, write_table(tmp_path / "data"), tmp_path / "set", "--counts", 4, 2, 6) == 0
    read = {split: texts(tmp_path / "set", split) for split in SPLITS}
    assert [(len(read[split]), sum(label for _, label in read[split])) for split in SPLITS] == [(4, 2), (2, 1), (6, 3)]
    assert not set(read["train"]) & set(read["dev"])


def test_classes_of_unequal_size_are_drawn_in_proportion():
    labels = np.repeat([0, 1], [90, 30])
    parts = sequence_sets.choose(labels, [20, 60], 1, "data")
    assert [(len(part), labels[part].sum()) for part in parts] == [(20, 5), (60, 15)]
    assert not set(parts[0]) & set(parts[1])


def write_cifar(data: Path, train: int = 40, test: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """The binary version, five training batches; the test images `[n,32,32,3]` and labels."""
    data.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    for name, count in (*((f"data_batch_{i}.bin", train // 5) for i in range(1, 6)), ("test_batch.bin", test)):
        images = random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (data / name).write_bytes(np.concatenate([labels[:, None], images.reshape(count, -1)], 1).tobytes())
    return images.transpose(0, 2, 3, 1), labels


def import_cifar(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, *arguments: object) -> int | str:
    counts = ("--counts", 30, 10, 20, "--expect", 40, 20, "--skip-checksums")
    return call(monkeypatch, "import_cifar10_grey", data, out, *counts, *arguments)


def test_pixels_are_the_luma_of_the_colours_row_by_row(tmp_path, monkeypatch):
    images, labels = write_cifar(tmp_path / "data")
    assert import_cifar(monkeypatch, tmp_path / "data", tmp_path / "set") == 0
    read = LabelledSequences(tmp_path / "set", "test")
    grey = np.stack([tokens.numpy() for tokens, _ in read]).reshape(-1, 32, 32)
    assert abs(grey - images @ np.array([0.299, 0.587, 0.114])).max() <= 0.5 + 1e-9
    assert read.labels.tolist() == labels.tolist()
    assert json.loads((tmp_path / "set" / "meta.json").read_text())["lossy"] is False
    for split, count in (("train", 30), ("dev", 10)):
        assert len(LabelledSequences(tmp_path / "set", split)) == count


def test_a_set_made_beside_its_images_stands_and_so_it_does_whatever_else_lies_there(tmp_path, monkeypatch, capsys):
    write_cifar(tmp_path)
    for _ in range(2):
        assert import_cifar(monkeypatch, tmp_path, tmp_path / "image") == 0
        (tmp_path / "notes.txt").touch()
    assert "stands, nothing to do" in capsys.readouterr().out


def test_white_grey_and_black_stay_what_they_are():
    from import_cifar10_grey import to_grey

    values = np.arange(256, dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (256, 1, 1, 3))
    assert to_grey(images).ravel().tolist() == values.tolist()


def test_a_lossy_set_says_so(tmp_path, monkeypatch):
    from import_cifar10_grey import read_cifar10

    write_cifar(tmp_path / "data")
    lossy = lambda *arguments, **keywords: (*read_cifar10(*arguments, **keywords)[:2], True)  # noqa: E731
    monkeypatch.setattr("import_cifar10_grey.read_cifar10", lossy)
    assert import_cifar(monkeypatch, tmp_path / "data", tmp_path / "set") == 0
    meta = json.loads((tmp_path / "set" / "meta.json").read_text())
    assert meta["lossy"] is True and "can't be compared" in meta["note"]


def test_images_that_are_missing_of_another_size_or_too_few_are_refused(tmp_path, monkeypatch):
    data = tmp_path / "data"
    assert "no data_batch_1, data_batch_1.bin or train.jpgs.bin in" in import_cifar(monkeypatch, data, tmp_path / "set")
    write_cifar(data)
    assert "train is [40, 32, 32, 3], not 50 images" in import_cifar(monkeypatch, data, tmp_path / "set", "--expect", 50, 20)
    batch = data / "data_batch_2.bin"
    batch.write_bytes(batch.read_bytes()[:-5])
    assert "data_batch_2.bin" in import_cifar(monkeypatch, data, tmp_path / "set")
    batch.unlink()
    assert "data_batch_2.bin" in import_cifar(monkeypatch, data, tmp_path / "set")
    write_cifar(data)
    monkeypatch.setattr("import_cifar10_grey.read_cifar10", lambda *a, **k: (np.zeros((40, 28, 28, 3)), np.zeros(40), False))
    assert "[40, 28, 28, 3], not 40 images of [32, 32, 3]" in import_cifar(monkeypatch, data, tmp_path / "set")
    assert not (tmp_path / "set").exists()


PAIR = "{label}\tP00-{n}\tP01-{n}\tfirst text {n}\tsecond, longer text ü {n}"


def write_aan(data: Path, **lines: str) -> Path:
    """The three files; keyword arguments replace the second line of one."""
    data.mkdir()
    for name, count in (("train", 6), ("eval", 4), ("test", 2)):
        content = [PAIR.format(label=(n % 2, f"{n % 2}.0")[n > 2], n=n) for n in range(count)]
        if name in lines:
            content[1] = lines[name]
        (data / f"new_aan_pairs.{name}.tsv").write_text("\n".join(content) + "\n", encoding="utf-8")
    return data


def import_aan(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, *arguments: object) -> int | str:
    return call(monkeypatch, "import_aan", data, out, "--counts", 6, 4, 2, *arguments)


def test_pairs_are_two_sequences_of_bytes_and_their_label(tmp_path, monkeypatch):
    assert import_aan(monkeypatch, write_aan(tmp_path / "data"), tmp_path / "set") == 0
    read = [(bytes(a.tolist()), bytes(b.tolist()), label) for a, b, label in LabelledSequences(tmp_path / "set", "dev")]
    assert read == [(f"first text {n}".encode(), f"second, longer text ü {n}".encode(), n % 2) for n in range(4)]


def test_long_pairs_are_cut_only_where_asked_for(tmp_path, monkeypatch):
    assert import_aan(monkeypatch, write_aan(tmp_path / "data"), tmp_path / "set", "--max-length", 15) == 0
    first, second, _ = LabelledSequences(tmp_path / "set", "test")[0]
    assert (bytes(first.tolist()), bytes(second.tolist())) == (b"first text 0", b"second, longer ")
    facts = json.loads((tmp_path / "set" / "meta.json").read_text())["splits"]["test"]
    assert (facts["texts_cut"], facts["bytes_cut"]) == (2, 2 * (len("second, longer text ü 0".encode()) - 15))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("yes\tP0\tP1\ta\tb", "new_aan_pairs.eval.tsv:2: label 'yes', not 0 or 1"),
        ("2\tP0\tP1\ta\tb", "new_aan_pairs.eval.tsv:2: label '2'"),
        ("1\tP0\tP1\ta", "new_aan_pairs.eval.tsv:2: 4 columns, not label, id1, id2, text1, text2"),
        ("1\tP0\tP1\ta\t", "new_aan_pairs.eval.tsv:2: the text is empty"),
        ("1\tP0\tP1\ta\tb\n1\tP0\tP1\ta\tb", "new_aan_pairs.eval.tsv: 5 pairs, 4 expected"),
    ],
)
def test_a_faulty_line_of_pairs_is_refused(tmp_path, monkeypatch, line, message):
    assert message in import_aan(monkeypatch, write_aan(tmp_path / "data", eval=line), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_missing_file_of_pairs_is_refused(tmp_path, monkeypatch):
    data = write_aan(tmp_path / "data")
    (data / "new_aan_pairs.test.tsv").unlink()
    assert "new_aan_pairs.test.tsv: no such file" in import_aan(monkeypatch, data, tmp_path / "set")
