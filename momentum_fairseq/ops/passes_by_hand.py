"""What passes written by hand share: where they may be taken, and gradients that can be differentiated again."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def takes_passes_by_hand() -> bool:
    """Whether nothing asks for a recorded graph: torch.compile, torch.func."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def asks_for_recorded_gradients(direction: Tensor) -> bool:
    """Whether gradients along `direction` are to be differentiated again; or it is many at once, as of `is_grads_batched`.

    Many directions can't be written into one tensor.
    """
    batched = torch._C._functorch.is_batchedtensor(direction) or torch._C._functorch.is_legacy_batchedtensor(direction)
    return torch.is_grad_enabled() or batched


def recorded_gradients(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    directions: Sequence[Tensor],
) -> list[Tensor | None]:
    """The gradients of the inputs along `directions`, one for each output, and their graph.

    Args:
        function: the pass in torch's own operations, of all inputs; each output has its direction.
        needed: which inputs take a gradient; the others are given None.
    """
    # Views: one may be made from another, and the gradient of that one would be counted twice.
    with torch.enable_grad():
        inputs = [None if x is None else x.view_as(x) for x in inputs]
        outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    pairs = [(output, along) for output, along in zip(outputs, directions, strict=True) if output.requires_grad]
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    outputs, directions = zip(*pairs, strict=True)
    again = torch.is_grad_enabled()
    found = iter(torch.autograd.grad(outputs, wanted, directions, create_graph=again, allow_unused=True))
    return [next(found) if need else None for need in needed]
