"""ListOps: the generator against the definition of the task, the published form, and both command lines."""

import json
import os
import statistics
from pathlib import Path

import numpy as np
import pytest
from common import listops
from common.sequence_sets import Block, make_shard

from momentum_fairseq.data.labelled_sequences import LabelledSequences
from tests.scripts.lra_scripts import call, checksums

SMALL = ("--counts", 60, 12, 12, "--max-depth", 4, "--min-length", 20, "--max-length", 80)


class Tree:
    """A parsed expression, by the definition and nothing of the generator."""

    def __init__(self, words: list[str], depth: int = 1) -> None:
        self.depth, self.arguments, self.operator = depth, [], words.pop(0)
        if self.operator.isdigit():
            self.value, self.length = int(self.operator), 1
            return
        while words[0] != "]":
            self.arguments.append(Tree(words, depth + 1))
        words.pop(0)
        values = [argument.value for argument in self.arguments]
        by_name = {"[MIN": min, "[MAX": max, "[MED": lambda v: int(statistics.median(v)), "[SM": lambda v: sum(v) % 10}
        self.value = by_name[self.operator](values)
        self.length = 2 + sum(argument.length for argument in self.arguments)

    def nodes(self) -> list["Tree"]:
        return [self, *(node for argument in self.arguments for node in argument.nodes())]


def trees(tokens: np.ndarray, lengths: np.ndarray) -> list[Tree]:
    result = []
    for expression in np.split(tokens, np.cumsum(lengths)[:-1]):
        words = [listops.WORDS[token] for token in expression]
        result.append(Tree(words))
        assert not words, "one expression and nothing behind it"
    return result


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Tree]]:
    """Expressions as long as the benchmark's."""
    tokens, lengths, values = listops.draw(np.random.default_rng(3), 60, listops.Shape())
    return tokens, lengths, values, trees(tokens, lengths)


def test_labels_are_the_values_of_the_expressions(drawn):
    _, _, values, parsed = drawn
    assert [tree.value for tree in parsed] == values.tolist()
    assert len(set(values.tolist())) > 5


def test_expressions_have_more_than_500_and_fewer_than_2000_tokens(drawn):
    _, lengths, _, parsed = drawn
    assert [tree.length for tree in parsed] == lengths.tolist()
    assert lengths.min() > 500 and lengths.max() < 2000


def test_expressions_are_operators_of_2_to_10_arguments_nested_at_most_10_deep(drawn):
    nodes = [node for tree in drawn[3] for node in tree.nodes()]
    counts = {len(node.arguments) for node in nodes if node.arguments}
    assert counts == set(range(2, 11))
    assert max(node.depth for node in nodes) == 10
    assert all(node.operator.isdigit() for node in nodes if node.depth == 10)
    assert not any(tree.operator.isdigit() for tree in drawn[3])


@pytest.mark.parametrize(("min_length", "max_length"), [(3, 6), (10, 20)])
def test_limits_of_lengths_are_left_out_and_the_shortest_and_longest_between_are_reached(min_length, max_length):
    shape = listops.Shape(max_depth=3, min_length=min_length, max_length=max_length)
    _, lengths, _ = listops.draw(np.random.default_rng(1), 400, shape)
    assert set(lengths.tolist()) == set(range(min_length + 1, max_length))


def test_before_lengths_are_chosen_a_quarter_of_arguments_are_operators_and_all_values_are_uniform():
    levels = listops.draw_forest(np.random.default_rng(5), 4000, listops.Shape(max_depth=5))
    for depth, level in enumerate(levels, 1):
        share, error = level.nested.mean(), 4 * (0.1875 / len(level.nested)) ** 0.5
        assert abs(share - 0.25) < error if depth < 4 else share == 0
        for values, kinds in ((level.operators, 4), (level.arguments - 2, 9), (level.digits, 10)):
            counts = np.bincount(values, minlength=kinds)
            assert len(counts) == kinds
            # chi squared with at most 9 degrees of freedom exceeds 33 once in 10,000 draws
            assert ((counts - len(values) / kinds) ** 2 / (len(values) / kinds)).sum() < 33


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[SM 9 9 [SM 9 9 ] ]", 6),
        ("[MED 1 2 ]", 1),
        ("[MED 9 1 4 6 ]", 5),
        ("[MED 9 1 4 ]", 4),
        ("7", 7),
    ],
)
def test_an_expression_has_the_value_that_arithmetic_gives(text, value):
    assert listops.evaluate(listops.parse(text)) == value


def test_the_published_form_pairs_each_argument_with_what_stands_left_of_it():
    published = "( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) ] )"
    tokens = listops.parse("[MAX 2 9 [MIN 4 7 ] ]")
    assert listops.publish(tokens) == published
    assert listops.parse(published) == tokens == [11, 2, 9, 10, 4, 7, 14, 14]


def test_what_is_published_is_read_back_as_it_was(drawn):
    tokens, lengths, _, _ = drawn
    for expression in np.split(tokens, np.cumsum(lengths)[:-1]):
        assert listops.parse(listops.publish(expression.tolist())) == expression.tolist()


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    """`set` with its text in `tsv`."""
    folder = tmp_path_factory.mktemp("listops")
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "generate_listops", folder / "set", *SMALL, "--workers", 1, "--tsv", folder / "tsv") == 0
    return folder


def test_processes_and_interruptions_change_no_byte(tmp_path, generated, monkeypatch):
    monkeypatch.setattr("generate_listops.BLOCK", 20)
    assert call(monkeypatch, "generate_listops", tmp_path / "one", *SMALL, "--workers", 1) == 0

    def fail(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("common.sequence_sets.write_set", fail)
        with pytest.raises(KeyboardInterrupt):
            call(broken, "generate_listops", tmp_path / "two", *SMALL, "--workers", 2)
    shards = sorted((tmp_path / "two" / "shards").glob("*.npz"))
    assert len(shards) == 5
    shards[1].unlink()
    kept = shards[0].stat().st_mtime_ns
    monkeypatch.setattr("shutil.rmtree", lambda folder: None)
    assert call(monkeypatch, "generate_listops", tmp_path / "two", *SMALL, "--workers", 2) == 0
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")
    assert shards[0].stat().st_mtime_ns == kept


def test_two_runs_that_make_a_shard_at_once_leave_it_whole(tmp_path, monkeypatch):
    block, savez, processes = Block(np.array([3, 5]), np.array([2]), np.array([1])), np.savez, [1]

    def save_while_another_does(file, **arrays):
        if len(processes) == 1:
            processes.append(2)
            make_shard(tmp_path, 0, lambda number: block)
        savez(file, **arrays)

    monkeypatch.setattr(os, "getpid", lambda: processes[-1])
    monkeypatch.setattr(np, "savez", save_while_another_does)
    path = make_shard(tmp_path, 0, lambda number: block)
    assert list(tmp_path.iterdir()) == [path] and np.load(path)["tokens"].tolist() == [3, 5]


def test_test_and_dev_are_the_same_for_every_number_of_training_examples(tmp_path, generated, monkeypatch):
    assert call(monkeypatch, "generate_listops", tmp_path / "set", *SMALL, "--counts", 70, 12, 12, "--workers", 1) == 0
    one, other = checksums(generated / "set"), checksums(tmp_path / "set")
    assert [name for name in one if one[name] != other[name]] == [name for name in one if name.startswith("train")]


def test_another_seed_draws_other_expressions(tmp_path, generated, monkeypatch):
    assert call(monkeypatch, "generate_listops", tmp_path / "set", *SMALL, "--workers", 1, "--seed", 2) == 0
    assert checksums(generated / "set")["test.tokens.npy"] != checksums(tmp_path / "set")["test.tokens.npy"]


def test_no_expression_occurs_twice_in_any_splits(tmp_path, monkeypatch):
    few = ("--counts", 500, 100, 100, "--max-depth", 2, "--min-length", 3, "--max-length", 6, "--workers", 1)
    assert call(monkeypatch, "generate_listops", tmp_path / "set", *few) == 0
    splits = [LabelledSequences(tmp_path / "set", split) for split in ("train", "dev", "test")]
    assert len({tuple(tokens.tolist()) for split in splits for tokens, _ in split}) == 700


def test_more_expressions_than_there_are_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("generate_listops.BLOCK", 2000)
    wanted = ("--counts", 390, 10, 10, "--max-depth", 2, "--min-length", 3, "--max-length", 5, "--workers", 1)
    message = call(monkeypatch, "generate_listops", tmp_path / "set", *wanted)
    assert "410 examples wanted, but there seem to be only 400 distinct ones" in message


def test_a_second_run_does_nothing_and_other_settings_are_refused(generated, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in (generated / "set").iterdir()}
    assert call(monkeypatch, "generate_listops", generated / "set", *SMALL) == 0
    assert "stands, nothing to do" in capsys.readouterr().out
    message = call(monkeypatch, "generate_listops", generated / "set", *SMALL, "--seed", 2)
    assert "set: made with other settings (seed 1, now 2); remove it or name another folder" in message
    assert {path: path.stat().st_mtime_ns for path in (generated / "set").iterdir()} == before


def test_meta_names_counts_seed_and_how_it_was_made(generated):
    meta = json.loads((generated / "set" / "meta.json").read_text())
    assert meta["settings"]["seed"] == 1 and meta["settings"]["counts"] == [60, 12, 12]
    assert meta["vocabulary"] == 15 and meta["classes"] == 10
    assert sum(meta["splits"]["train"]["by_label"]) == 60
    assert "generate_listops.py" in meta["made"]["command"]


def test_the_published_files_are_imported_as_what_was_generated(tmp_path, generated, monkeypatch):
    assert call(monkeypatch, "import_listops", generated / "tsv", tmp_path / "set", "--counts", 60, 12, 12) == 0
    assert checksums(tmp_path / "set") == checksums(generated / "set")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("( ( ( [MAX 1 ) 2 ) ] )\t3", "basic_val.tsv:2: Target is 3, but the expression's value is 2"),
        ("[MAX 1 2 ]\tx", "basic_val.tsv:2: Target is 'x', not a digit"),
        ("[MAX 1 2 ]\t12", "basic_val.tsv:2: Target is '12', not a digit"),
        ("[MAX 1 2 ]", "basic_val.tsv:2: Target is '', not a digit"),
        ("[AVG 1 2 ]\t1", "basic_val.tsv:2: '[AVG' is not a digit, [MIN"),
        ("[MAX 1 2\t2", "basic_val.tsv:2: 1 operators are not closed"),
        ("[MAX 1 2 ] ]\t2", "basic_val.tsv:2: a ] closes nothing"),
        ("[MAX ]\t2", "basic_val.tsv:2: [MAX has no argument"),
        ("1 2\t2", "basic_val.tsv:2: not one expression"),
        ("( )\t2", "basic_val.tsv:2: no expression"),
        ("[MAX 1 2 ]\t2\n[MAX 1 2 ]\t2", "basic_val.tsv: 2 examples, 1 expected"),
    ],
)
def test_a_faulty_published_file_is_refused_by_line(tmp_path, monkeypatch, line, message):
    for name in ("train", "val", "test"):
        (tmp_path / f"basic_{name}.tsv").write_text("Source\tTarget\n" + (line if name == "val" else "[MAX 1 2 ]\t2") + "\n")
    assert message in call(monkeypatch, "import_listops", tmp_path, tmp_path / "set", "--counts", 1, 1, 1)
    assert not (tmp_path / "set").exists()


def test_a_missing_file_or_another_header_is_refused(tmp_path, monkeypatch):
    for name in ("train", "val"):
        (tmp_path / f"basic_{name}.tsv").write_text("source,target\n")
    assert "basic_test.tsv: no such file" in call(monkeypatch, "import_listops", tmp_path, tmp_path / "set")
    (tmp_path / "basic_test.tsv").write_text("source,target\n")
    assert "basic_train.tsv:1: the columns are 'source,target'" in call(monkeypatch, "import_listops", tmp_path, tmp_path / "set")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--counts", 0, 1, 1), "--counts: 0 examples of train"),
        (("--max-depth", 1), "--max-depth 1: must be at least 2"),
        (("--max-args", 1), "--max-args 1: must be at least 2"),
        (("--max-length", 501), "--min-length 500, --max-length 501: no length lies between"),
        (("--min-length", 10**5, "--max-length", 10**6), "more than 100,000 and fewer than 1,000,000 tokens"),
        (("--workers", 0), "--workers 0: must be at least 1"),
        (("--seed", -1), "--seed -1"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(tmp_path, monkeypatch, option, message):
    if option[0] == "--min-length":
        empty = listops.Level(*np.zeros((4, 1), int))
        monkeypatch.setattr("common.listops.draw_forest", lambda *arguments: [empty])
        monkeypatch.setattr("common.listops.measure", lambda levels: [np.full(256, 7)])
        monkeypatch.setattr("common.listops.write_forest", lambda *arguments: np.zeros(0))
        monkeypatch.setattr("common.listops.evaluate_forest", lambda levels: np.zeros(256))
    assert message in call(monkeypatch, "generate_listops", tmp_path / "set", *option)
