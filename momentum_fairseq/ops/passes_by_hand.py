"""What passes written by hand share: where they may be taken, and gradients that can be differentiated again."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def takes_passes_by_hand(weights: Tensor | None) -> bool:
    """Whether nothing asks for a recorded graph: learned weights, torch.compile, torch.func."""
    learned = weights is not None and weights.requires_grad and torch.is_grad_enabled()
    return not (learned or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def recorded_gradients(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    directions: Sequence[Tensor],
) -> list[Tensor | None]:
    """The gradients of the inputs along `directions`, one for each output, and their graph.

    Args:
        function: the pass in torch's own operations, of all inputs; each output has its direction.
        needed: which inputs take a gradient; the others are given None.
    """
    inputs = [x.view_as(x) for x in inputs]  # one may be made from another: the gradient of that one would be counted twice
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    pairs = [(output, along) for output, along in zip(outputs, directions, strict=True) if output.requires_grad]
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    outputs, directions = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, directions, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needed]
