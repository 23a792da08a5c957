"""Decoding: when it stops, what it returns, and that a sentence's output doesn't depend on its batch."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from momentum_fairseq import ops
from momentum_fairseq.models.momentum_nat import MomentumNatModel, RefinementState
from momentum_fairseq.models.nat_decoder import DecoderMemory
from momentum_fairseq.models.nat_encoder import EncoderOutput
from momentum_fairseq.modules import ATTENTION_KINDS
from momentum_fairseq.refinement_generator import RefinementGenerator
from tests.pairs import pairs

PAD, EOS = 1, 2
ALL = pairs(ATTENTION_KINDS)


@pytest.fixture
def generator(dictionary):
    return lambda **options: RefinementGenerator(dictionary, **options)


def sentences(count: int = 64, longest: int = 11) -> list[Tensor]:
    random = torch.Generator().manual_seed(11)
    lengths = torch.randint(1, longest, (count,), generator=random).tolist()
    return [F.pad(torch.randint(4, 44, (n,), generator=random), (0, 1), value=EOS) for n in lengths]


def sample(rows: list[Tensor]) -> dict:
    """Left-padded, as fairseq does."""
    width = max(map(len, rows))
    return {"net_input": {"src_tokens": torch.stack([F.pad(r, (width - len(r), 0), value=PAD) for r in rows])}}


def decode(generator: RefinementGenerator, model, rows: list[Tensor], size: int = 64) -> list[list[dict]]:
    batches = [sample(rows[i : i + size]) for i in range(0, len(rows), size)]
    return [hypotheses for batch in batches for hypotheses in generator.generate([model], batch)]


def tokens(results: list[list[dict]]) -> list[list[list[int]]]:
    return [[hypothesis["tokens"].tolist() for hypothesis in hypotheses] for hypotheses in results]


def restless(build_model, **options) -> MomentumNatModel:
    """A model whose sentences differ in length and in when they stop: its length predictor and feedback are strong."""
    model = build_model(**{"embed_dim": 24, "heads": 2, **options})
    torch.manual_seed(5)
    with torch.no_grad():
        model.length_predictor.classifier.weight.normal_(std=1.5)
        model.length_predictor.classifier.bias.copy_(-0.5 * (torch.arange(41) - 20).abs())
        model.target_embedding.weight.mul_(3)
    return model


class ScriptedModel(torch.nn.Module):
    """Says, for each sentence, what it is told in each pass (and the last of it from then on)."""

    def __init__(self, scripts: list[list[list[int]]]) -> None:
        super().__init__()
        self.scripts, self.passes = scripts, []

    def encode(self, src_tokens: Tensor) -> EncoderOutput:
        rows = torch.arange(len(src_tokens))
        return EncoderOutput([], rows.view(-1, 1, 1).float(), src_tokens.eq(PAD), rows, [])

    def predict_lengths(self, source: EncoderOutput, beam: int) -> Tensor:
        return torch.tensor([[len(script[0])] for script in self.scripts])

    def translate(self, source: EncoderOutput, lengths: Tensor) -> RefinementState:
        width = int(lengths.max())
        padding = torch.arange(width) >= lengths.unsqueeze(1)
        return self.say(torch.arange(len(lengths)), 0, padding)

    def refine(self, state: RefinementState) -> RefinementState:
        return self.say(state.hidden[:, 0, 0].long(), int(state.hidden[0, 0, 1]) + 1, state.padding_mask)

    def say(self, rows: Tensor, step: int, padding: Tensor) -> RefinementState:
        self.passes.append(rows.tolist())
        said = torch.full(padding.shape, PAD)
        for i, row in enumerate(rows.tolist()):
            words = self.scripts[row][min(step, len(self.scripts[row]) - 1)]
            said[i, : len(words)] = torch.tensor(words)
        hidden = torch.zeros(*padding.shape, 2)
        hidden[..., 0], hidden[..., 1] = rows.unsqueeze(1), step
        return RefinementState(said, hidden, padding, DecoderMemory([], None))

    def word_scores(self, state: RefinementState) -> Tensor:
        return torch.zeros(state.tokens.shape)


def run(generator: RefinementGenerator, scripts: list[list[list[int]]]) -> tuple[list[dict], ScriptedModel]:
    model = ScriptedModel(scripts)
    return [h for (h,) in generator.generate([model], sample(sentences(len(scripts))))], model


# batches


def check_batch_invariance(generator: RefinementGenerator, model: MomentumNatModel) -> list[list[dict]]:
    """The same tokens and steps at batch 1, 7 and 64."""
    rows = sentences()
    whole = decode(generator, model, rows)
    for size in (1, 7):
        parts = decode(generator, model, rows, size)
        assert tokens(parts) == tokens(whole)
        assert [[h["steps"] for h in hs] for hs in parts] == [[h["steps"] for h in hs] for hs in whole]
        for one, other in zip(parts, whole, strict=True):
            assert one[0]["score"] == pytest.approx(other[0]["score"], abs=1e-5)
    return whole


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_tokens_are_identical_at_batch_1_7_and_64(build_model, generator, attention, connection):
    model = restless(build_model, attention=attention, connection=connection)
    whole = check_batch_invariance(generator(), model)
    assert len({len(hypotheses[0]["tokens"]) for hypotheses in whole}) > 5
    assert len({hypotheses[0]["steps"] for hypotheses in whole}) > 1


@pytest.mark.parametrize(
    "options", [{"adaptive": False, "max_steps": 4}, {"length_beam": 3}, {"stopping": "jaccard", "window": 3}]
)
def test_tokens_are_identical_in_every_way_of_decoding(build_model, generator, options):
    check_batch_invariance(generator(**options), restless(build_model, connection="adaptive"))


@pytest.mark.parametrize("attention", ["linear", "momentum"])
def test_the_batch_check_fails_where_keys_are_not_masked(build_model, generator, attention, monkeypatch):
    def unmasked(*arguments, key_padding_mask, **numbers):
        return getattr(ops, f"{attention}_attention")(*arguments, **numbers)

    monkeypatch.setattr(f"momentum_fairseq.modules.attention_kinds.{attention}_attention", unmasked)
    with pytest.raises(AssertionError):
        check_batch_invariance(generator(), restless(build_model, attention=attention))


def test_the_batch_check_fails_where_momentum_takes_the_padded_length(build_model, generator, monkeypatch):
    def padded_length(q, k, v, *, momentum, step_size, key_padding_mask, feature_map):
        q, k = feature_map(q), feature_map(k)
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0)
        return ops.momentum_attention(q, k, v, momentum=momentum, step_size=step_size)

    monkeypatch.setattr("momentum_fairseq.modules.attention_kinds.momentum_attention", padded_length)
    with pytest.raises(AssertionError):
        check_batch_invariance(generator(), restless(build_model))


# stopping

A, B, C = [5, 6, 7], [6, 5, 7], [5, 6, 8]


@pytest.mark.parametrize(
    ("script", "steps", "output"),
    [([A, A, B], 2, A), ([A, B, B, C], 3, B), ([A, B, A, B, A, B, A], 6, B), ([A, B, C, A, B, C], 6, C)],
)
def test_equality_stops_where_the_output_repeats_or_at_the_last_step(generator, script, steps, output):
    (hypothesis,), _ = run(generator(max_steps=6), [script])
    assert (hypothesis["steps"], hypothesis["tokens"].tolist()) == (steps, output)


@pytest.mark.parametrize(
    ("script", "window", "steps", "output"),
    [
        ([A, B, A, B, C], 3, 3, A),  # the same words in any order
        ([A, B, C, C, C], 3, 5, C),
        ([A, A, C, C, C], 2, 2, A),
        ([A, C, A, C, A, C, A, C], 3, 8, C),
        ([[5, 5, 6], [5, 6, 6], [5, 5, 6]], 2, 4, [5, 5, 6]),  # multisets, not sets
    ],
)
def test_jaccard_stops_where_the_words_stay_over_the_window(generator, script, window, steps, output):
    (hypothesis,), _ = run(generator(max_steps=8, stopping="jaccard", window=window), [script])
    assert (hypothesis["steps"], hypothesis["tokens"].tolist()) == (steps, output)


def test_finished_sentences_leave_the_batch_and_results_keep_the_order(generator):
    scripts = [[A, B, C, C], [A, A], [[5, 6, 7, 8], [9] * 4, [9] * 4]]
    found, model = run(generator(max_steps=6, retain_history=True), scripts)
    assert [h["steps"] for h in found] == [4, 2, 3]
    assert [h["tokens"].tolist() for h in found] == [C, A, [9] * 4]
    assert model.passes == [[0, 1, 2], [0, 1, 2], [0, 2], [0]]
    assert [step["tokens"].tolist() for step in found[0]["history"]] == [A, B, C, C]
    assert [step["tokens"].tolist() for step in found[2]["history"]] == [[5, 6, 7, 8], [9] * 4, [9] * 4]


def test_a_fixed_number_of_steps_runs_them_all(generator):
    (hypothesis,), model = run(generator(max_steps=5, adaptive=False), [[A, A, A]])
    assert (hypothesis["steps"], len(model.passes)) == (5, 5)


def test_one_step_is_the_initial_translation(generator):
    (hypothesis,), model = run(generator(max_steps=1), [[A, B]])
    assert (hypothesis["steps"], hypothesis["tokens"].tolist(), len(model.passes)) == (1, A, 1)


@pytest.mark.parametrize("attention", ["linear", "momentum"])
def test_projecting_the_source_changes_no_token(build_model, generator, attention, monkeypatch):
    # Wide enough for sources of these lengths to be projected.
    sizes = {"embed_dim": 64, "heads": 1}
    model, rows, projected = restless(build_model, attention=attention, connection="adaptive", **sizes), sentences(), []

    def counted(source: ops.WeightedSource, weight: Tensor):
        projected.append(ops.project_source(source, weight))
        return projected[-1]

    place = "momentum_fairseq.modules.multihead_attention.project_source"
    monkeypatch.setattr(place, counted)
    found = tokens(decode(generator(), model, rows))
    assert any(isinstance(source, ops.ProjectedSource) for source in projected)
    monkeypatch.setattr(place, lambda source, weight: source)
    assert found == tokens(decode(generator(), model, rows))


def test_an_adaptive_result_is_the_fixed_runs_at_its_first_repetition(build_model, generator):
    model, rows = restless(build_model, connection="adaptive"), sentences()
    fixed = decode(generator(max_steps=12, adaptive=False, retain_history=True), model, rows)
    adaptive = decode(generator(max_steps=12), model, rows)
    steps = [hypotheses[0]["steps"] for hypotheses in adaptive]
    assert min(steps) < 12
    for (found,), (every,) in zip(adaptive, fixed, strict=True):
        outputs = [step["tokens"].tolist() for step in every["history"]]
        repeats = [i for i in range(1, 12) if outputs[i] == outputs[i - 1]]
        assert found["steps"] == (repeats[0] + 1 if repeats else 12)
        assert found["tokens"].tolist() == outputs[found["steps"] - 1]


@pytest.mark.parametrize("adaptive", [False, True])
def test_10_steps_are_the_first_10_of_a_longer_run(build_model, generator, adaptive):
    model, rows = restless(build_model), sentences(20)
    short, long = (decode(generator(max_steps=steps, adaptive=adaptive, retain_history=True), model, rows) for steps in (10, 15))
    assert max(len(h["history"]) for (h,) in long) > 10
    for (a,), (b,) in zip(short, long, strict=True):
        outputs = [step["tokens"].tolist() for step in a["history"]]
        assert outputs == [step["tokens"].tolist() for step in b["history"][:10]]
        assert a["tokens"].tolist() == outputs[-1]


# scores and lengths


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


@pytest.mark.parametrize("extra", [{}, {"target": None}])
def test_oracle_lengths_without_references_are_refused(build_model, generator, extra):
    with pytest.raises(ValueError, match="oracle lengths need references; this input has none"):
        generator(oracle_length=True).generate([build_model()], {**sample(sentences(2)), **extra})


def test_repeats_are_collapsed_by_the_option_only(generator):
    script = [[[5, 5, 6, 6, 6, 5]]]
    (plain,), _ = run(generator(), script)
    (collapsed,), _ = run(generator(collapse_repeats=True, retain_history=True), script)
    assert plain["tokens"].tolist() == [5, 5, 6, 6, 6, 5]
    assert collapsed["tokens"].tolist() == [5, 6, 5]
    assert len(collapsed["positional_scores"]) == 3
    assert collapsed["history"][0]["tokens"].tolist() == [5, 5, 6, 6, 6, 5]


# what fairseq-generate does with it


def test_history_is_kept_by_the_option_only(build_model, generator):
    model, rows = build_model(), sentences(3)
    assert all("history" not in h for (h,) in decode(generator(), model, rows))
    for (found,) in decode(generator(retain_history=True), model, rows):
        assert len(found["history"]) == found["steps"]
        assert found["history"][-1]["tokens"].tolist() == found["tokens"].tolist()


def test_outputs_have_no_bos_eos_or_padding_and_scores_can_be_changed_in_place(build_model, generator):
    for (found,) in decode(generator(), build_model(), sentences(20)):
        assert (found["tokens"] >= 3).all()
        expected = found["positional_scores"] / math.log(2)
        assert torch.equal(found["positional_scores"].div_(math.log(2)), expected)
        assert found["alignment"] is None


def test_a_model_that_fairseq_prepared_for_inference_decodes(build_model, generator):
    rows, model, prepared = sentences(9), build_model(), build_model()
    prepared.prepare_for_inference_(SimpleNamespace(generation=GenerationConfig(), common_eval=None))
    assert tokens(decode(generator(), prepared, rows)) == tokens(decode(generator(), model, rows))


def test_dropout_is_off_while_decoding(build_model, generator):
    model, rows = build_model(dropout=0.5).train(), sentences(9)
    assert tokens(decode(generator(), model, rows)) == tokens(decode(generator(), model, rows))


def test_ensembles_prefixes_and_constraints_are_refused(build_model, generator):
    model, batch = build_model(), sample(sentences(2))
    with pytest.raises(ValueError, match="decodes with one model, got an ensemble of 2"):
        generator().generate([model, model], batch)
    for refused in ("prefix_tokens", "constraints"):
        with pytest.raises(ValueError, match=r"can't honour a prefix \(--prefix-size\) or --constraints"):
            generator().generate([model], batch, **{refused: torch.tensor([[5]])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"stopping": "never"}, "unknown stopping rule 'never'; choose from equality, jaccard"),
        ({"window": 1}, "window must be at least 2, got 1"),
        ({"length_beam": 0}, "length_beam must be at least 1, got 0"),
        ({"length_beam": 3, "oracle_length": True}, "oracle lengths leave nothing to a length beam of 3"),
    ],
)
def test_a_bad_value_is_refused(generator, options, message):
    with pytest.raises(ValueError, match=message):
        generator(**options)
