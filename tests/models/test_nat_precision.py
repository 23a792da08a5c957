"""The refinement model in float64, in bfloat16 and under autocast."""

import copy

import pytest
import torch

from tests.models.nat_outputs import ALL, forward
from tests.models.sentences import pad, sources, words


@pytest.mark.parametrize(("attention", "connection"), ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_model_trains_and_decodes_in_other_precisions(build_model, attention, connection, dtype):
    model = build_model(attention=attention, connection=connection)
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    exact = forward(model, source, target)["steps"][0]
    other = copy.deepcopy(model).to(dtype)
    output = forward(other, source, target)
    assert output["steps"][0].dtype == dtype
    tolerance = 1e-4 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(output["steps"][0].float(), exact, rtol=0, atol=tolerance)
    sum(logits.float().square().mean() for logits in output["steps"]).backward()
    gradients = [parameter.grad for name, parameter in other.named_parameters() if "length_predictor" not in name]
    assert all(gradient.isfinite().all() and gradient.dtype == dtype for gradient in gradients)
    state = other.refine(other.translate(other.encode(source), torch.tensor([6, 4])))
    assert other.word_scores(state).dtype == torch.float32
    assert other.word_scores(state).isfinite().all()


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_the_model_trains_under_autocast(build_model, attention, connection):
    model = build_model(attention=attention, connection=connection)
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    exact = forward(model, source, target)["steps"][0]
    with torch.autocast("cpu", torch.bfloat16):
        steps = forward(model, source, target)["steps"]
    torch.testing.assert_close(steps[0].float(), exact, rtol=0, atol=0.1)
    sum(logits.float().square().mean() for logits in steps).backward()
    parameters = [parameter for name, parameter in model.named_parameters() if "length_predictor" not in name]
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in parameters)
