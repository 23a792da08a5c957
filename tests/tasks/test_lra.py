"""The task `lra`: batches of every example, none of its tokens taken for padding, and what it refuses."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import options

from momentum_fairseq.data.labelled_sequences import LabelledSequences
from momentum_fairseq.tasks.lra import LRA_TASKS, PAD, LraConfig, LraTask, even_lengths
from tests import data_workers
from tests.lra_sets import COUNTS, write_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("two"), towers=2, classes=2)


def build(folder: Path, name: str = "listops", **values: Any) -> LraTask:
    return LraTask.setup_task(LraConfig(data=str(folder), lra_task=name, **values))


def batches(task: LraTask, split: str, **values: Any) -> list[dict[str, Any]]:
    task.load_dataset(split)
    arguments = {"max_sentences": 8, "max_positions": task.max_positions(), "required_batch_size_multiple": 8, **values}
    iterator = task.get_batch_iterator(task.dataset(split), **arguments)
    return [batch for batch in iterator.next_epoch_itr(shuffle=False) if batch]


@pytest.mark.parametrize(("split", "on_disk"), [("train", "train"), ("valid", "dev"), ("test", "test")])
def test_every_example_is_in_one_batch_with_its_tokens_and_label(folder, split, on_disk):
    examples, seen = LabelledSequences(folder, on_disk), []
    for batch in batches(build(folder), split):
        (tokens,) = batch["net_input"]["sequences"]
        for number, row, label in zip(batch["id"].tolist(), tokens, batch["target"].tolist(), strict=True):
            expected, expected_label = examples[number]
            assert torch.equal(row[row.ne(PAD)] - 1, expected) and label == expected_label
            assert row[: len(expected)].ne(PAD).all()  # padded on the right
            seen.append(number)
        assert batch["nsentences"] == len(tokens) and batch["ntokens"] == tokens.ne(PAD).sum()
    assert sorted(seen) == list(range(COUNTS[on_disk]))


def test_token_0_is_a_token_and_no_padding(folder):
    zeros = sum(int((tokens == 0).sum()) for tokens, _ in LabelledSequences(folder, "test"))
    found = sum(int(batch["net_input"]["sequences"][0].eq(1).sum()) for batch in batches(build(folder), "test"))
    assert found == zeros > 100


def test_a_pair_goes_into_a_tower_each(pairs):
    examples = LabelledSequences(pairs, "dev")
    for batch in batches(build(pairs, "retrieval"), "valid"):
        assert batch["ntokens"] == sum(int(tower.ne(PAD).sum()) for tower in batch["net_input"]["sequences"])
        for tower, rows in enumerate(batch["net_input"]["sequences"]):
            for number, row in zip(batch["id"].tolist(), rows, strict=True):
                assert torch.equal(row[row.ne(PAD)] - 1, examples[number][tower])


def test_batches_are_of_like_lengths_and_drawn_anew_in_each_epoch_from_the_seed(folder):
    def ids(**values: Any) -> list[list[int]]:
        return [batch["id"].tolist() for batch in batches(build(folder), "train", **values)]

    sizes = LabelledSequences(folder, "train").sizes
    spans = [np.ptp(sizes[batch]) for batch in ids()]
    assert np.mean(spans) < 3 < np.ptp(sizes) / 2
    assert ids(epoch=2, seed=5) == ids(epoch=2, seed=5)
    assert ids(epoch=2, seed=5) != ids(epoch=3, seed=5) != ids(epoch=3, seed=6)


def test_processes_that_load_data_end_with_their_epoch(folder):
    with data_workers.all_ended():
        assert len(batches(build(folder), "test", num_workers=2, data_buffer_size=10)) > 1


def test_workers_share_the_examples(folder):
    shards = [[batch["id"].tolist() for batch in batches(build(folder), "test", num_shards=2, shard_id=i)] for i in (0, 1)]
    assert sorted(number for shard in shards for batch in shard for number in batch) == list(range(COUNTS["test"]))


@pytest.mark.parametrize("most", [61, 2000])
def test_batches_have_few_lengths_a_sixteenth_above_their_own_at_most(tmp_path, most):
    task = build(write_set(tmp_path, lengths=(33, 90)), max_positions=most, truncate=True)
    task.load_dataset("test")
    longest = int(task.dataset("test").sizes.max())
    for batch in batches(task, "test", max_sentences=1):
        (tokens,) = batch["net_input"]["sequences"]
        assert tokens.ne(PAD).sum() == batch["ntokens"] and tokens.shape[1] == even_lengths(batch["ntokens"], longest)
    packed = batches(task, "test", max_sentences=None, max_tokens=200)
    assert all(batch["net_input"]["sequences"][0].numel() <= 200 for batch in packed)
    lengths = range(1, 4001)
    even = [even_lengths(length, 4000) for length in lengths]
    assert all(length <= width <= length * 17 / 16 for length, width in zip(lengths, even, strict=True))
    assert len({width for width in even if 1024 < width <= 2048}) == 16
    assert even_lengths(1990, 2000) == even_lengths(2000, 2000) == 2000


def test_a_batch_holds_at_most_max_tokens(folder):
    found = batches(build(folder), "test", max_sentences=None, max_tokens=50)
    assert all(batch["net_input"]["sequences"][0].numel() <= 50 for batch in found)
    assert sum(batch["nsentences"] for batch in found) == COUNTS["test"]


def test_the_longest_sequence_fits_where_max_tokens_are_no_more(tmp_path):
    task = build(write_set(tmp_path, lengths=(33, 90)), max_positions=2000)
    task.load_dataset("test")
    longest = int(task.dataset("test").sizes.max())
    assert even_lengths(longest, 2000) > longest
    found = batches(task, "test", max_sentences=None, max_tokens=longest)
    assert sum(batch["nsentences"] for batch in found) == COUNTS["test"]


def test_a_longer_sequence_is_refused_or_cut_and_counted(folder, caplog):
    examples = LabelledSequences(folder, "test")
    cut = sum(len(tokens) > 12 for tokens, _ in examples)
    with pytest.raises(ValueError, match=rf"{cut} of 37 examples in test are longer than --max-positions 12, the first is ex"):
        build(folder, max_positions=12).load_dataset("test")
    task = build(folder, max_positions=12, truncate=True)
    with caplog.at_level(logging.INFO):
        found = batches(task, "test")
    assert f"test: 37 examples, {cut} of them cut at 12 tokens" in caplog.text
    assert task.dataset("test").cut == cut
    rows = {int(i): row[row.ne(PAD)] for b in found for i, row in zip(b["id"], b["net_input"]["sequences"][0], strict=True)}
    assert all(torch.equal(rows[i] - 1, tokens[:12]) for i, (tokens, _) in enumerate(examples))


def test_the_longest_sequence_is_that_of_the_set_unless_it_is_given(folder, pairs):
    assert {name: build(pairs if name == "retrieval" else folder, name).max_positions() for name in LRA_TASKS} == {
        "listops": 2000,
        "text": 4000,
        "retrieval": 4000,
        "image": 1024,
        "pathfinder": 1024,
    }
    assert build(folder, max_positions=30).max_positions() == 30


def test_ids_leave_room_for_the_padding(folder, pairs):
    task = build(folder)
    assert (task.vocabulary, task.classes, task.towers) == (10, 3, 1)
    assert build(pairs, "retrieval").towers == 2


def test_what_is_no_such_set_is_refused(folder, pairs, tmp_path):
    with pytest.raises(ValueError, match="--lra-task None: must be one of listops, text, retrieval, image, pathfinder"):
        LraTask.setup_task(LraConfig(data=str(folder)))
    with pytest.raises(ValueError, match=r"its examples have 1 sequence\(s\), those of retrieval have 2; name the folder of ret"):
        build(folder, "retrieval")
    with pytest.raises(ValueError, match=r"its examples have 2 sequence\(s\), those of text have 1"):
        build(pairs, "text")
    with pytest.raises(ValueError, match=r"meta\.json: no such file"):
        build(tmp_path)
    with pytest.raises(ValueError, match="no data folder; name the one that scripts/prepare_lra.sh made"):
        LraTask.setup_task(LraConfig(lra_task="listops"))
    with pytest.raises(ValueError, match="--max-positions must be at least 1, got 0"):
        build(folder, max_positions=0)
    with pytest.raises(ValueError, match="no split 'other'; it has train, dev, test"):
        build(folder).load_dataset("other")


def test_an_unknown_set_is_refused_with_the_choices(folder, capsys):
    line = [str(folder), "--task=lra", "--lra-task=chess", "--arch=lra_classifier_listops"]
    with pytest.raises(SystemExit):
        options.parse_args_and_arch(options.get_training_parser(), line)
    assert "argument --lra-task: invalid choice: 'chess' (choose from 'listops', 'text'" in capsys.readouterr().err


def test_a_set_that_says_that_it_is_another_is_refused(tmp_path):
    folder = write_set(tmp_path / "image", settings={"task": "image"})
    assert build(folder, "image").classes == 3
    with pytest.raises(ValueError, match=r"image: the set of image, not of listops"):
        build(folder, "listops")
