"""The loss against its formula, its scaling over batches, and what it logs."""

import math

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics

from momentum_fairseq.criterions.nat_refinement_loss import NatRefinementLoss

PAD, EOS = 1, 2


def batch(lengths: list[tuple[int, int]], seed: int = 3) -> dict:
    """A sample of sentences with (source, target) lengths; the second refinement step reads a corrupted target."""
    generator = torch.Generator().manual_seed(seed)
    width, target_width = max(s for s, _ in lengths) + 1, max(t for _, t in lengths)
    source = torch.full((len(lengths), width), PAD)
    target = torch.full((len(lengths), target_width), PAD)
    for row, (s, t) in enumerate(lengths):
        source[row, width - s - 1 :] = torch.cat([torch.randint(4, 44, (s,), generator=generator), torch.tensor([EOS])])
        target[row, :t] = torch.randint(4, 44, (t,), generator=generator)
    return {
        "net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)},
        "target": target,
        "ntokens": int(target.ne(PAD).sum()),
        "step_inputs": [None, torch.where(target.eq(PAD), PAD, 4 + (target - 3) % 40), None],
    }


LENGTHS = [(5, 6), (3, 3), (8, 2), (4, 7)]


@pytest.mark.parametrize("factor", [0.0, 1.0, 0.3])
def test_the_loss_is_the_sum_over_steps_of_token_means_plus_the_length_mean(build_model, factor):
    model, sample = build_model().double(), batch(LENGTHS)
    loss, sample_size, _ = NatRefinementLoss(None, factor)(model, sample)
    output = model(**sample["net_input"], tgt_tokens=sample["target"], step_inputs=sample["step_inputs"])
    assert len(output["steps"]) == 4
    expected, targets = 0.0, [t for t in sample["target"].flatten().tolist() if t != PAD]
    for logits in output["steps"]:
        log_p = logits - logits.exp().sum(-1, keepdim=True).log()
        expected -= sum(row[t].item() for row, t in zip(log_p, targets, strict=True)) / len(targets)
    log_p = F.log_softmax(output["length_logits"], -1)
    classes = [20 + t - s for s, t in LENGTHS]
    expected -= factor * sum(row[c].item() for row, c in zip(log_p, classes, strict=True)) / len(classes)
    assert sample_size == sum(t for _, t in LENGTHS)
    assert loss.item() / sample_size == pytest.approx(expected, rel=1e-6)


def test_two_accumulated_batches_give_the_gradient_of_the_joint_batch(build_model):
    """Of the token part; the length part is a mean over sentences."""
    criterion, model = NatRefinementLoss(None, 0.0), build_model(connection="adaptive").double()
    joint = batch(LENGTHS)

    def gradients(*samples: dict) -> list[torch.Tensor]:
        model.zero_grad()
        total = 0
        for sample in samples:
            loss, size, _ = criterion(model, sample)
            loss.backward()
            total += size
        return [p.grad / total for name, p in model.named_parameters() if "length_predictor" not in name]

    def rows(chosen: slice) -> dict:
        target = joint["target"][chosen]
        net_input = {key: value[chosen] for key, value in joint["net_input"].items()}
        steps = [None if tokens is None else tokens[chosen] for tokens in joint["step_inputs"]]
        return {"net_input": net_input, "target": target, "ntokens": int(target.ne(PAD).sum()), "step_inputs": steps}

    for a, b in zip(gradients(joint), gradients(rows(slice(0, 1)), rows(slice(1, 4))), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("most_logits", [0, 1 << 28])
def test_the_loss_is_computed_in_float32_for_a_model_in_bfloat16(build_model, most_logits):
    exact, _, _ = NatRefinementLoss(None, 1.0)(build_model(), batch(LENGTHS))
    loss, _, output = NatRefinementLoss(None, 1.0, most_logits)(build_model().bfloat16(), batch(LENGTHS))
    assert loss.dtype == output["step1_loss"].dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize("factor", [-1.0, float("nan")])
def test_a_negative_length_factor_is_refused(factor):
    with pytest.raises(ValueError, match=f"--length-loss-factor must not be negative, got {factor}"):
        NatRefinementLoss(None, factor)


def test_means_over_sentences_are_refused():
    with pytest.raises(ValueError, match="--sentence-avg: the means of nat_refinement_loss are over tokens; leave it out"):
        NatRefinementLoss(None, 1.0, sentence_avg=True)


@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_by_blocks_is_that_of_whole_logits(build_model, shared):
    results = []
    for most_logits in (10**9, 0):
        model, sample = build_model(connection="adaptive", share_all_embeddings=shared).double(), batch(LENGTHS)
        loss, size, output = NatRefinementLoss(None, 1.0, most_logits)(model, sample)
        loss.backward()
        logged = {name: float(value) for name, value in output.items()}
        results.append((logged, size, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (logged, size, gradients), (in_blocks, other, blocked) = results
    assert size == other and in_blocks == pytest.approx(logged, rel=1e-6)
    torch.testing.assert_close(blocked, gradients, rtol=1e-10, atol=1e-10)


def test_blocks_are_taken_above_most_logits_of_all_steps_together(build_model):
    model, sample = build_model(), batch(LENGTHS)
    logits = 4 * sample["ntokens"] * model.output_projection.out_features
    arguments = {**sample["net_input"], "tgt_tokens": sample["target"], "step_inputs": sample["step_inputs"]}
    assert "step_losses" in model(**arguments, most_logits=logits - 1)
    for most_logits in (logits, None):
        assert "steps" in model(**arguments, most_logits=most_logits)


def test_a_negative_number_of_logits_is_refused():
    with pytest.raises(ValueError, match="--most-logits must not be negative, got -1"):
        NatRefinementLoss(None, 1.0, -1)


def logged(*calls: list[dict]) -> dict[str, float]:
    with metrics.aggregate(new_root=True) as meters:
        for outputs in calls:
            NatRefinementLoss.reduce_metrics(outputs)
    return {name: float(meter.avg) for name, meter in meters.items()}


def test_step_losses_accuracies_length_and_momentum_are_logged_over_all_batches(build_model):
    model, criterion = build_model(connection="adaptive"), NatRefinementLoss(None, 1.0)
    samples = [batch([(5, 6), (3, 3)]), batch([(8, 2), (4, 7), (2, 2)], seed=4)]
    found = logged([criterion(model, sample)[2] for sample in samples])
    outputs = [model(**sample["net_input"], tgt_tokens=sample["target"], step_inputs=sample["step_inputs"]) for sample in samples]
    targets = torch.cat([output["targets"] for output in outputs])
    expected = {}
    for step in range(4):
        logits = torch.cat([output["steps"][step] for output in outputs])
        predictions = torch.cat([output["predictions"][step] for output in outputs])
        expected[f"step{step + 1}_loss"] = F.cross_entropy(logits, targets).item()
        expected[f"step{step + 1}_accuracy"] = 100 * (predictions == targets).float().mean().item()
    logits = torch.cat([output["length_logits"] for output in outputs])
    classes = torch.cat([output["length_targets"] for output in outputs])
    expected["length_loss"] = F.cross_entropy(logits, classes).item()
    expected["length_accuracy"] = 100 * (logits.argmax(-1) == classes).float().mean().item()
    for name in outputs[0]["momentum"]:
        encoder = name.startswith("encoder")
        tokens = [int(s["net_input"]["src_lengths"].sum()) if encoder else s["ntokens"] for s in samples]
        means = [output["momentum"][name].item() for output in outputs]
        expected[f"momentum_{name}"] = sum(n * mean for n, mean in zip(tokens, means, strict=True)) / sum(tokens)
    assert {name for name in expected if name.startswith("momentum")} == {
        "momentum_encoder_layer1",
        *(f"momentum_decoder{d}_layer{i}" for d in (1, 2) for i in (0, 1)),
    }
    assert set(found) == {"loss", *expected}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    steps = sum(expected[f"step{i}_loss"] for i in range(1, 5))
    assert math.isclose(found["loss"], steps + expected["length_loss"], rel_tol=0.05)


def test_batches_logged_one_after_the_other_have_the_means_over_all(build_model):
    model, criterion = build_model(connection="adaptive"), NatRefinementLoss(None, 1.0)
    samples = [batch([(5, 6), (3, 3)]), batch([(8, 2), (4, 7), (2, 2)], seed=4)]
    outputs = [criterion(model, sample)[2] for sample in samples]
    for i, output in enumerate(outputs):
        output["step1_correct"] = output["length_correct"] = torch.tensor(2 - i)
    assert logged(outputs[:1], outputs[1:]) == pytest.approx(logged(outputs), rel=1e-6)


def test_perfect_predictions_are_logged_as_100_per_cent(build_model):
    output = NatRefinementLoss(None, 1.0)(build_model(), batch([(5, 6)]))[2]
    output["step1_correct"] = torch.tensor(output["ntokens"])
    output["length_correct"] = torch.tensor(output["nsentences"])
    found = logged([output, output])
    assert (found["step1_accuracy"], found["length_accuracy"]) == (100, 100)


def test_summed_logging_outputs_log_the_same(build_model):
    model, criterion = build_model(connection="adaptive"), NatRefinementLoss(None, 1.0)
    one, two = (criterion(model, batch(LENGTHS, seed))[2] for seed in (1, 2))
    assert criterion.logging_outputs_can_be_summed()
    assert logged([{key: one[key] + two[key] for key in one}]) == pytest.approx(logged([one, two]))


def test_no_output_logs_nothing():
    assert logged([]) == {}
