"""What padding, batch mates and an earlier pass may not change in the refinement model; the published faults change it."""

import pytest
import torch

from momentum_fairseq import ops
from momentum_fairseq.models import nat_decoder
from momentum_fairseq.models.nat_decoder import uniform_copy
from tests.models.nat_outputs import ALL, forward, rows_of
from tests.models.sentences import pad, sources, words


def check_padding(model, tolerance: float) -> None:
    """A sentence's logits alone, without padding, are those it has in a batch, with padding on either side."""
    source, target = sources(5, 9, 2), words(6, 3, 8, seed=6)
    alone = forward(model, source[0][None], target[0][None])
    expected = rows_of(alone, target[0][None], 0)
    for left in (False, True):
        for width in (10, 15):
            batch = pad(source, width, left)
            padded_target = pad(target, 8 + width - 10, left=False)
            found = rows_of(forward(model, batch, padded_target), padded_target, 0)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_padding_side_extra_padding_and_batch_mates_change_no_logits(build_model, attention, connection):
    model = build_model(attention=attention, connection=connection)
    check_padding(model, 1e-5)
    check_padding(model.double(), 1e-11)


@pytest.mark.parametrize(
    "options", [{"normalize_before": True}, {"connection_chain": "separate"}, {"attention_feature_map": "taylor"}]
)
def test_padding_changes_no_logits_with_other_options(build_model, options):
    check_padding(build_model(attention="momentum", connection="adaptive", **options).double(), 1e-11)


@pytest.mark.parametrize("attention", ["linear", "momentum"])
def test_the_padding_check_fails_where_keys_are_not_masked(build_model, attention, monkeypatch):
    def unmasked(*tensors, key_padding_mask, **numbers):
        return getattr(ops, f"{attention}_attention")(*tensors, **numbers)

    monkeypatch.setattr(f"momentum_fairseq.modules.{attention}_kind.{attention}_attention", unmasked)
    with pytest.raises(AssertionError, match="not close"):
        check_padding(build_model(attention=attention), 1e-5)


def test_the_padding_check_fails_where_momentum_takes_the_padded_length(build_model, monkeypatch):
    """Keys are masked, but the weights count all of them (the published code's N)."""

    def padded_length(q, k, v, *, momentum, step_size, key_padding_mask, eps, feature_map):
        q, k = feature_map(q), feature_map(k)
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0)
        return ops.momentum_attention(q, k, v, momentum=momentum, step_size=step_size, eps=eps)

    monkeypatch.setattr("momentum_fairseq.modules.momentum_kind.momentum_attention", padded_length)
    with pytest.raises(AssertionError, match="not close"):
        check_padding(build_model(attention="momentum"), 1e-5)


def check_repeated_pass(model) -> None:
    """The second of two equal decoder passes gives what the first gave."""
    source = model.encode(pad(sources(5, 3), 7, left=True))
    lengths = torch.tensor([6, 4])
    padding = torch.arange(6) >= lengths.unsqueeze(1)
    x = uniform_copy(source, lengths, 6)
    first, second = (model.decoder2(x, model.decoder2.memory(source, padding)).hidden for _ in range(2))
    torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize("connection", ["momentum", "adaptive"])
def test_the_velocity_starts_afresh_in_every_pass(build_model, connection):
    check_repeated_pass(build_model(connection=connection))


@pytest.mark.parametrize("connection", ["momentum", "adaptive"])
def test_the_velocity_check_fails_where_it_is_not_reset(build_model, connection, monkeypatch):
    kept = nat_decoder.Velocities()
    monkeypatch.setattr(nat_decoder, "Velocities", lambda: kept)
    with pytest.raises(AssertionError, match="not equal"):
        check_repeated_pass(build_model(connection=connection))
