"""The copy task: sequences 0w0w that follow from seed, epoch and number alone, and a loss on the second w alone."""

from collections import Counter
from typing import Any

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from torch import Tensor

from momentum_fairseq.models.momentum_lm import MomentumLmConfig, MomentumLmModel
from momentum_fairseq.tasks.copy_task import CopyTask, CopyTaskConfig
from tests import data_workers

PAD = 1


def build(**values: Any) -> CopyTask:
    """A small task; keyword arguments are fields of its config."""
    small = {"tokens_per_sample": 16, "train_sequences": 40, "valid_sequences": 21, "seed": 1, "train_subset": "train"}
    return CopyTask.setup_task(CopyTaskConfig(**{**small, **values}))


def batches(task: CopyTask, split: str = "train", **values: Any) -> list[dict]:
    task.load_dataset(split)
    arguments = {"max_sentences": 8, "max_positions": task.max_positions(), "required_batch_size_multiple": 8, **values}
    return list(task.get_batch_iterator(task.dataset(split), **arguments).next_epoch_itr(shuffle=False))


def by_number(found: list[dict]) -> dict[int, str]:
    """Each sequence of the batches, as the text of what the model reads. fairseq evens workers out with empty batches."""
    task = build()
    found = [batch for batch in found if batch]
    rows = [(i, row[row.ne(PAD)]) for b in found for i, row in zip(b["id"], b["net_input"]["src_tokens"], strict=True)]
    return {int(i): task.dictionary.string(row) for i, row in rows}


def halves(source: Tensor, target: Tensor) -> tuple[list[str], list[str]]:
    """The symbols of a row before the second separator, and those that are predicted."""
    task = build()
    words = task.dictionary.string(source[source.ne(PAD)]).split()
    return words[: words.index("0", 1)], task.dictionary.string(target[target.ne(PAD)]).split()


def test_a_sequence_is_a_separator_and_a_word_twice_and_the_second_word_is_predicted():
    found = batches(build())
    for batch in found:
        for source, target in zip(batch["net_input"]["src_tokens"], batch["target"], strict=True):
            first, predicted = halves(source, target)
            assert first == ["0", *predicted] and "0" not in predicted and predicted
            read = source[source.ne(PAD)]
            assert torch.equal(read[: len(predicted) + 1], torch.cat([read[:1], target[target.ne(PAD)]]))
            # Each symbol is predicted where the one before it is read.
            assert (target.ne(PAD).nonzero()[:, 0] == len(predicted) + 1 + torch.arange(len(predicted))).all()
        assert batch["ntokens"] == batch["target"].ne(PAD).sum() < batch["net_input"]["src_tokens"].ne(PAD).sum()


def test_a_validation_set_is_the_same_in_every_process():
    found = by_number(batches(build(), "valid"))
    assert [found[number] for number in range(3)] == ["0 2 7 9 0 2 7", "0 7 9 9 0 7 9", "0 1 10 0 1"]


def test_processes_that_load_data_end_with_their_epoch():
    with data_workers.all_ended():
        assert len(batches(build(), num_workers=2, data_buffer_size=10)) == 5


@pytest.mark.parametrize(("longest", "most"), [(4, 1), (5, 1), (16, 7), (128, 63)])
def test_words_have_every_length_up_to_the_longest_and_every_symbol(longest, most):
    task = build(tokens_per_sample=longest, train_sequences=1000, symbols=3)
    task.load_dataset("train")
    targets = [item["target"] for item in map(task.dataset("train").__getitem__, range(1000))]
    lengths = Counter(int(target.ne(PAD).sum()) for target in targets)
    assert set(lengths) == set(range(1, most + 1))
    symbols = Counter(torch.cat(targets).tolist())
    del symbols[PAD]
    assert {task.dictionary[symbol] for symbol in symbols} == {"1", "2", "3"}
    assert max(symbols.values()) < 1.2 * min(symbols.values())


def test_each_epoch_of_training_has_other_sequences_and_each_validation_the_same():
    first, second = (by_number(batches(build(), epoch=epoch)) for epoch in (1, 2))
    assert sum(first[i] == second[i] for i in range(40)) < 5
    assert by_number(batches(build(), epoch=2)) == second
    first, second = (by_number(batches(build(), "valid", epoch=epoch)) for epoch in (1, 2))
    assert first == second


def test_the_seed_decides_the_training_alone():
    train, valid = ([by_number(batches(build(seed=seed), split)) for seed in (1, 2)] for split in ("train", "valid"))
    assert sum(a == b for a, b in zip(train[0].values(), train[1].values(), strict=True)) < 5
    assert valid[0] == valid[1]
    test = by_number(batches(build(), "test"))
    assert sum(a == b for a, b in zip(test.values(), valid[0].values(), strict=True)) < 3


def test_workers_share_an_epoch():
    shards = [by_number(batches(build(), epoch=2, num_shards=2, shard_id=shard)) for shard in range(2)]
    assert not shards[0].keys() & shards[1].keys()
    assert {**shards[0], **shards[1]} == by_number(batches(build(), epoch=2))


def test_processes_that_load_data_follow_the_epochs():
    task = build()
    task.load_dataset("train")
    for epoch in (1, 2):
        iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=8, epoch=epoch, num_workers=1)
        assert by_number(list(iterator.next_epoch_itr())) == by_number(batches(build(), epoch=epoch))


def test_an_epoch_goes_on_in_the_middle_with_the_sequences_that_were_left():
    def iterator(epoch: int) -> Any:
        task = build()
        task.load_dataset("train")
        return task.get_batch_iterator(task.dataset("train"), max_sentences=8, epoch=epoch)

    whole, resumed = iterator(2), iterator(2)
    running = whole.next_epoch_itr()
    seen = [next(running) for _ in range(2)]
    resumed.load_state_dict(whole.state_dict())
    found, left = list(resumed.next_epoch_itr()), list(running)
    assert len(left) == 3 and [batch["id"].tolist() for batch in found] == [batch["id"].tolist() for batch in left]
    assert by_number(found) == by_number(left)
    assert by_number(left).keys() | by_number(seen).keys() == set(range(40))


def test_every_sequence_is_in_some_batch():
    assert by_number(batches(build(), "valid", max_sentences=6)).keys() == set(range(21))
    assert by_number(batches(build(), "valid", max_sentences=None, max_tokens=47)).keys() == set(range(21))


def test_the_loss_and_the_accuracy_are_those_of_the_second_word():
    task, (batch, *_) = build(), batches(build())
    size = {"embed_dim": 12, "ffn_dim": 16, "layers": 1, "heads": 2, "dropout": 0.0}
    cfg = MomentumLmConfig(**size, max_source_positions=16, max_target_positions=16, tokens_per_sample=16)
    torch.manual_seed(1)
    model = MomentumLmModel(cfg, task.source_dictionary, task.target_dictionary).eval()
    criterion = LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=0.0, report_accuracy=True)
    loss, size, logged = criterion(model, batch)
    log_p, expected, correct = model(batch["net_input"]["src_tokens"])[0].log_softmax(-1), 0.0, 0
    for row, target in enumerate(batch["target"].tolist()):
        for position, symbol in enumerate(target):
            if symbol != PAD:
                expected -= log_p[row, position, symbol].item()
                correct += log_p[row, position].argmax().item() == symbol
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert (size, logged["total"], logged["n_correct"]) == (batch["ntokens"], batch["ntokens"], correct)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("symbols", 1, "--symbols must be at least 2, got 1"),
        ("tokens_per_sample", 3, "--tokens-per-sample must be at least 4, got 3"),
        ("train_sequences", 0, "--train-sequences must be at least 1, got 0"),
        ("valid_sequences", 0, "--valid-sequences must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        build(**{field: value})
