"""The scores of what is decoded, and the lengths: predicted, tried or given."""

import pytest
import torch
import torch.nn.functional as F

from tests.refinement_generator.decoding import PAD, decode, restless, sample, sentences, tokens


def test_scores_are_the_log_softmax_of_the_last_pass(build_model, generator):
    model, rows = restless(build_model).double(), sentences(9)
    for row, (found,) in zip(rows, decode(generator(max_steps=4, adaptive=False), model, rows), strict=True):
        source = model.encode(row.unsqueeze(0))
        state = model.translate(source, model.predict_lengths(source)[0])
        for _ in range(3):
            state = model.refine(state)
        log_p = torch.log_softmax(model.output_projection(state.hidden[0]), -1)
        expected = [log_p[i, token].item() for i, token in enumerate(state.tokens[0].tolist())]
        assert found["tokens"].tolist() == state.tokens[0].tolist()
        assert found["positional_scores"].tolist() == pytest.approx(expected, abs=1e-5)
        assert found["score"] == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_a_length_beam_tries_the_best_lengths_and_ranks_by_score(build_model, generator):
    model, rows = restless(build_model), sentences(20, longest=24)
    found = decode(generator(length_beam=4, max_steps=3), model, rows)
    plain = decode(generator(max_steps=3), model, rows)
    changed = 0
    for row, hypotheses, (first,) in zip(rows, found, plain, strict=True):
        assert len(hypotheses) == 4
        lengths = model.predict_lengths(model.encode(row.unsqueeze(0)), 4)[0].tolist()
        assert sorted(len(h["tokens"]) for h in hypotheses) == sorted(lengths)
        scores = [h["score"] for h in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert first["tokens"].tolist() in [h["tokens"].tolist() for h in hypotheses]
        changed += first["tokens"].tolist() != hypotheses[0]["tokens"].tolist()
    assert changed > 0


def test_hypotheses_of_a_length_beam_have_different_lengths_in_short_sentences_too(build_model, generator):
    found = decode(generator(length_beam=4, max_steps=3), restless(build_model), sentences(20, longest=3))
    assert [len({len(h["tokens"]) for h in hypotheses}) for hypotheses in found] == [4] * 20


def test_a_length_beam_of_one_is_plain_decoding(build_model, generator):
    model, rows = restless(build_model), sentences(20)
    assert tokens(decode(generator(length_beam=1), model, rows)) == tokens(decode(generator(), model, rows))


def test_oracle_lengths_are_the_references(build_model, generator):
    model, rows = restless(build_model), sentences(5)
    lengths = [3, 1, 9, 4, 30]
    batch = sample(rows)
    batch["target"] = torch.stack([F.pad(torch.full((n,), 7), (0, 30 - n), value=PAD) for n in lengths])
    found = generator(oracle_length=True).generate([model], batch)
    assert [len(h["tokens"]) for (h,) in found] == lengths
    assert [len(h["tokens"]) for (h,) in generator().generate([model], batch)] != lengths


def test_no_predicted_length_is_beyond_the_longest_target(build_model, generator):
    model, rows = restless(build_model, max_target_positions=6), sentences(9)
    found = tokens(decode(generator(length_beam=3, max_steps=1), model, rows))
    assert max(len(translation) for hypotheses in found for translation in hypotheses) == 6


def test_an_oracle_length_is_one_word_at_least(build_model, generator):
    batch = {**sample(sentences(2)), "target": torch.tensor([[7, 7], [PAD, PAD]])}
    assert [len(h["tokens"]) for (h,) in generator(oracle_length=True).generate([build_model()], batch)] == [2, 1]


@pytest.mark.parametrize("extra", [{}, {"target": None}])
def test_oracle_lengths_without_references_are_refused(build_model, generator, extra):
    with pytest.raises(ValueError, match="oracle lengths need references; this input has none"):
        generator(oracle_length=True).generate([build_model()], {**sample(sentences(2)), **extra})
