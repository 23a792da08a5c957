"""Random numbers that a training draws anew by schedule."""

import copy

import pytest
import torch

from momentum_fairseq.modules import ATTENTION_KINDS, AttentionOptions, MultiheadAttention
from momentum_fairseq.modules.attention_kind import AttentionPlace, AttentionSizes
from momentum_fairseq.modules.random_draws import RandomDraws


def draws(interval: int, seed: int = 1) -> RandomDraws:
    torch.manual_seed(seed)
    return RandomDraws(lambda generator: torch.randn(5, generator=generator), interval)


def test_numbers_change_when_the_interval_is_over_and_only_then():
    module, seen = draws(10), []
    for update in range(35):
        module.set_num_updates(update)
        seen.append(tuple(module().tolist()))
    assert [update for update in range(1, 35) if seen[update] != seen[update - 1]] == [10, 20, 30]
    assert len(set(seen)) == 4


def test_no_two_draws_of_a_training_are_the_same():
    module, seen = draws(1), set()
    for update in range(2000):
        module.set_num_updates(update)
        seen.add(tuple(module().tolist()))
    assert len(seen) == 2000


def test_seed_and_number_are_saved_and_the_numbers_are_not():
    assert set(draws(10).state_dict()) == {"seed", "number"}


def test_an_interval_of_zero_keeps_the_first_draw():
    module = draws(0)
    first = module().clone()
    module.set_num_updates(10**6)
    assert torch.equal(module(), first)


def test_the_seed_comes_from_torchs_generator():
    assert torch.equal(draws(10)(), draws(10)())
    assert not torch.equal(draws(10)(), draws(10, seed=2)())


@pytest.mark.parametrize("stop", [4, 10, 15, 29])
def test_a_resumed_training_draws_what_an_uninterrupted_one_draws(stop):
    whole = draws(10)
    for update in range(stop):
        whole.set_num_updates(update)
    resumed = draws(10, seed=2)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert torch.equal(resumed(), whole())
    for update in range(stop, 40):
        torch.randn(update)  # what else is drawn meanwhile has no part in it
        whole.set_num_updates(update)
        resumed.set_num_updates(update)
        assert torch.equal(resumed(), whole())


def test_a_copy_goes_on_by_itself():
    module = draws(10)
    other = copy.deepcopy(module)
    other.set_num_updates(10)
    assert not torch.equal(module(), other())
    module.set_num_updates(10)
    assert torch.equal(module(), other())


@pytest.mark.parametrize("kind", ["performer", "rfa", "reformer"])
def test_attention_draws_anew_by_its_interval(kind):
    torch.manual_seed(1)
    sizes = AttentionSizes(redraw_interval=3, **({"bucket": 4} if kind == "reformer" else {"features": 8}))
    module = MultiheadAttention(12, 2, AttentionOptions(kind=kind, sizes=sizes), self_attention=True)
    x, outputs = torch.randn(2, 20, 12), []
    for update in range(7):
        for part in module.modules():
            if hasattr(part, "set_num_updates"):
                part.set_num_updates(update)
        outputs.append(module(x, x, x).detach())
    changed = [update for update in range(1, 7) if not torch.equal(outputs[update], outputs[update - 1])]
    assert changed == [3, 6]


def test_reformers_rotations_for_short_sentences_are_the_first_of_those_for_long_ones():
    def rotations(max_length: int) -> torch.Tensor:
        torch.manual_seed(1)
        options = AttentionOptions(kind="reformer", place=AttentionPlace(max_length=max_length))
        return ATTENTION_KINDS["reformer"](2, options).rotations()

    assert rotations(512).shape == (2, 4, 64, 4) and rotations(1024).shape == (2, 4, 64, 8)
    assert torch.equal(rotations(512), rotations(1024)[..., :4])


@pytest.mark.parametrize("kind", ["performer", "rfa", "reformer"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_module_built_on_meta_draws_once_it_is_loaded(kind, assign):
    def build() -> MultiheadAttention:
        return MultiheadAttention(12, 2, AttentionOptions(kind=kind), self_attention=True)

    saved = build()
    with torch.device("meta"):
        module = build()
    assert all(x.is_meta for x in (*module.parameters(), *module.buffers()))
    module = module if assign else module.to_empty(device="cpu")
    module.load_state_dict(saved.state_dict(), assign=assign)
    x = torch.randn(2, 20, 12)
    assert torch.equal(module(x, x, x), saved(x, x, x))
