"""Translating and refining by the model's own output: equal to the training forward, in part and in whole."""

import pytest
import torch
import torch.nn.functional as F

from tests.models.nat_outputs import forward
from tests.models.sentences import PAD, pad, sources, words


def test_translating_and_refining_equal_the_training_forward(build_model):
    model = build_model(connection="adaptive")
    source, target = pad(sources(5, 3, 8), 9, left=True), pad(words(6, 4, 8), 8, left=False)
    output = forward(model, source, target)
    state = model.translate(model.encode(source), torch.tensor([6, 4, 8]))
    for step in range(4):
        if step:
            state = model.refine(state)
        assert torch.equal(state.tokens[~state.padding_mask], output["predictions"][step])
        assert (state.tokens[state.padding_mask] == PAD).all()
        log_p = F.log_softmax(output["steps"][step], -1).gather(1, output["predictions"][step][:, None])[:, 0]
        scores = model.word_scores(state)
        torch.testing.assert_close(scores[~state.padding_mask], log_p, rtol=1e-5, atol=1e-5)
        assert (scores[state.padding_mask] == 0).all()


def test_a_refinement_with_the_memory_kept_equals_one_with_it_computed_anew(build_model):
    model = build_model()
    source = model.encode(pad(sources(5, 3, 8), 9, left=True))
    state = model.refine(model.translate(source, torch.tensor([6, 4, 8])))
    anew = model.refine(state._replace(memory=model.decoder2.memory(source, state.padding_mask)))
    kept = model.refine(state)
    assert torch.equal(kept.tokens, anew.tokens)
    assert torch.equal(kept.hidden, anew.hidden)


@pytest.mark.parametrize("chosen", [torch.tensor([2, 0]), torch.tensor([1])])
def test_a_refinement_of_some_sentences_equals_theirs_in_the_whole_batch(build_model, chosen):
    model = build_model(connection="adaptive").double()
    state = model.translate(model.encode(pad(sources(5, 3, 8), 9, left=True)), torch.tensor([6, 4, 8]))
    some, all_of_them = model.refine(state.select(chosen)), model.refine(state).select(chosen)
    assert torch.equal(some.tokens, all_of_them.tokens)
    torch.testing.assert_close(some.hidden, all_of_them.hidden, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("left", [True, False])
def test_some_sentences_of_a_source_leave_the_padding_that_they_share(build_model, left):
    source = build_model().encode(pad(sources(5, 3, 8), 11, left=left)).select(torch.tensor([1, 0]))
    assert [x.shape[1] for x in (*source.layers, source.embedding, source.padding_mask)] == [6] * (len(source.layers) + 2)
    assert (~source.padding_mask).sum(1).tolist() == [4, 6]  # with EOS


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_best_words_by_blocks_are_the_plain_argmax_over_ordinary_words(build_model, monkeypatch, block):
    monkeypatch.setattr("momentum_fairseq.modules.word_projection.LOGITS", block)
    model = build_model()
    torch.manual_seed(1)
    hidden = torch.randn(5, 7, 12)
    padding = torch.arange(7) >= torch.tensor([[7], [1], [3], [6], [2]])
    plain = model.output_projection(hidden)
    plain[..., :3] = -torch.inf
    expected = plain.argmax(-1).masked_fill(padding, PAD)
    assert torch.equal(model.best_words(hidden, padding), expected)


def test_bos_eos_and_padding_are_never_produced_even_where_they_score_best(build_model):
    model = build_model()
    with torch.no_grad():
        model.output_projection.weight[:3] *= 1000
    state = model.translate(model.encode(pad(sources(5, 3, 8), 9, left=True)), torch.tensor([6, 4, 8]))
    plain = model.output_projection(state.hidden).argmax(-1)
    assert (plain < 3)[~state.padding_mask].any()
    for _ in range(3):
        assert (state.tokens[~state.padding_mask] >= 3).all()
        state = model.refine(state)
    source, target = pad(sources(5), 6, left=True), pad(words(6), 6, left=False)
    assert all((predicted >= 3).all() for predicted in forward(model, source, target)["predictions"])
