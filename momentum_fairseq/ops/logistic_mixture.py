"""Mixtures of discretised logistics over pixel values 0 … 255 (Salimans et al., "PixelCNN++", ICLR 2017).

Loss and sampler read the parameters here, and here alone: `[..., 3K]`, for each of K components first all logits, then all means,
then all log scales. Values v lie at x = v / 127.5 − 1, so that a bin reaches 1/255 to either side.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

VALUES = 256
HALF_BIN = 1 / (VALUES - 1)
LEAST_LOG_SCALE = -7.0  # a scale far below a bin, where all the mass is in one value
MOST_LOG_SCALE = 7.0  # one so far above that most of the mass is at the edges


def logistic_mixture_log_prob(parameters: Tensor, values: Tensor) -> Tensor:
    """log p(v) of a mixture of logistics, each rounded to a value; what lies beyond 0 or 255 counts there.

        p(v) = Σ_k π_k (σ((x + 1/255 − μ_k) / s_k) − σ((x − 1/255 − μ_k) / s_k)),   σ(−∞) for v = 0, σ(∞) for v = 255

    With a, b the two arguments, σ(a) − σ(b) = σ(a) σ(−b) (1 − e^{b−a}): a sum of logarithms in which nothing cancels, so that
    the 256 probabilities sum to one and none is zero however far out it lies.

    Args:
        parameters: `[..., 3K]`; computed in float32 at least.
        values: int64 `[...]` in 0 … 255.

    Returns:
        `[...]`, natural logarithms.

    Raises:
        ValueError: parameters that are no triples, or values of another shape.
    """
    logits, means, log_scales = mixture_of(parameters)
    if values.shape != parameters.shape[:-1]:
        raise ValueError(f"values must be {list(parameters.shape[:-1])} to go with the parameters, got {list(values.shape)}")
    values = values.unsqueeze(-1)
    steepness = (-log_scales).exp()
    centred = values.to(means.dtype) * (2 * HALF_BIN) - 1 - means
    upper = F.logsigmoid((centred + HALF_BIN) * steepness).masked_fill(values == VALUES - 1, 0)
    lower = F.logsigmoid((HALF_BIN - centred) * steepness).masked_fill(values == 0, 0)
    edge = (values == 0) | (values == VALUES - 1)
    within = (-torch.expm1(-2 * HALF_BIN * steepness)).log().masked_fill(edge, 0)
    return (F.log_softmax(logits, -1) + upper + lower + within).logsumexp(-1)


def sample_logistic_mixture(parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw values with the probabilities of `logistic_mixture_log_prob`.

        k = argmax_k (logit_k − log e_k),   e_k ~ exponential(1): k ~ π without computing π (Gumbel-max)
        u ~ uniform(0, 1),   x = μ_k + s_k (log u − log(1 − u)),   v = round(127.5 (x + 1)) within 0 … 255

    Args:
        parameters: `[..., 3K]`. generator: on their device; None = torch's own.

    Returns:
        int64 `[...]`.

    Raises:
        ValueError: parameters that are no triples.
    """
    logits, means, log_scales = mixture_of(parameters)
    component = (logits - torch.empty_like(logits).exponential_(generator=generator).log_()).argmax(-1, keepdim=True)
    mean, scale = means.gather(-1, component).squeeze(-1), log_scales.gather(-1, component).squeeze(-1).exp()
    uniform = torch.rand(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    x = torch.addcmul(mean, scale, uniform.logit_())
    return x.add_(1).mul_((VALUES - 1) / 2).round_().clamp_(0, VALUES - 1).long()


def mixture_of(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[..., 3K]` → logits, means and log scales, `[..., K]` each, float32 at least.

    Raises:
        ValueError: no triples.
    """
    if parameters.shape[-1] == 0 or parameters.shape[-1] % 3:
        raise ValueError(
            f"a mixture has a logit, a mean and a log scale for each component; {parameters.shape[-1]} parameters a pixel are no "
            f"triples (give the model --mixture-components)"
        )
    logits, means, log_scales = parameters.to(torch.promote_types(parameters.dtype, torch.float32)).chunk(3, dim=-1)
    return logits, means, log_scales.clamp(LEAST_LOG_SCALE, MOST_LOG_SCALE)


def spread_mixture(components: int) -> Tensor:
    """Parameters `[3K]` to start a training from: components of equal weight, spread over the values, that overlap.

    All values are about equally probable: some 8 bits each.
    """
    centres = (torch.arange(components) + 0.5) * (2 / components) - 1
    return torch.cat([torch.zeros(components), centres, torch.full((components,), math.log(1 / components))])
