"""Cross-entropy of a projection to the vocabulary, a block of rows at a time: the logits of a batch are never in memory.

The gradients are taken with the loss, while a block's logits are at hand: as many products as in the plain form.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from momentum_fairseq.ops.precision import no_autocast
from momentum_fairseq.ops.row_argmax import row_argmax

# Logits in memory at once: 64 MB in float32 on a CPU, 256 MB on a GPU. Each block adds to the gradient of all V words, so
# blocks of few rows would spend their time on that.
BLOCK = {"cpu": 1 << 24, "cuda": 1 << 26}


def rows_a_block(rows: int, words: int, device: torch.device) -> int:
    """How many rows of logits over `words` to hold at once, of at most `rows`."""
    return max(1, min(rows, BLOCK.get(device.type, BLOCK["cuda"]) // words))


def blocked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, first_word: int = 0) -> tuple[Tensor, Tensor]:
    """Σ_r −log softmax(h_r Wᵀ)[t_r], and each row's best word.

    Memory beside the inputs: a block of logits; with gradients also theirs, `[R,C]` and `[V,C]`, from the loss to its backward.

    Args:
        hidden: h `[R,C]`. weight: W `[V,C]`. targets: int64 `[R]`.
        first_word: the words before it are in the softmax, but never the best.

    Returns:
        The loss, a scalar in float32 or better, with gradients for hidden and weight; and int64 `[R]`. Of equal logits the
        first word is the best.

    Raises:
        ValueError: shapes that disagree.
        RuntimeError: a second derivative.
    """
    if hidden.dim() != 2 or weight.shape[1:] != hidden.shape[1:] or targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"expected hidden [R,C], weight [V,C], targets [R]; got {tuple(hidden.shape)}, {tuple(weight.shape)}, "
            f"{tuple(targets.shape)}"
        )
    return _BlockedCrossEntropy.apply(hidden, weight, targets, first_word, torch.is_grad_enabled())


class _BlockedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, first_word: int, gradients: bool
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        exact = torch.promote_types(hidden.dtype, torch.float32)
        # Not in float16: before the loss is scaled, the gradient of a rare word is too small for it.
        product = exact if low == torch.float16 else low
        needs_hidden, needs_weight = (gradients and needed for needed in ctx.needs_input_grad[:2])
        hidden_gradient = torch.empty_like(hidden, dtype=exact) if needs_hidden else None
        weight_gradient = torch.zeros_like(weight, dtype=exact) if needs_weight else None
        loss, words = hidden.new_zeros((), dtype=exact), torch.empty_like(targets)
        block = rows_a_block(len(hidden), len(weight), hidden.device)
        with no_autocast(hidden):
            low_weight, product_weight = weight.to(low), weight.to(product)
            for start in range(0, len(hidden), block):
                rows = slice(start, start + block)
                logits = (hidden[rows].to(low) @ low_weight.t()).to(exact)
                target = targets[rows].unsqueeze(1)
                words[rows] = row_argmax(logits[:, first_word:]) + first_word
                chosen, largest = logits.gather(1, target), logits.amax(1, keepdim=True)
                # In place: a pass over new memory takes as long as the exponentials.
                exponentials = logits.sub_(largest).exp_()
                total = exponentials.sum(1, keepdim=True)
                loss += (largest - chosen + total.log()).sum()
                if not needs_hidden and not needs_weight:
                    continue
                # Softmax minus the target's one: the gradient of the logits.
                gradient = exponentials.div_(total).scatter_add_(1, target, total.new_full(target.shape, -1)).to(product)
                if needs_hidden:
                    hidden_gradient[rows] = (gradient @ product_weight).to(exact)
                if needs_weight:
                    add_product(weight_gradient, gradient.t(), hidden[rows].to(product))
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(words)
        return loss, words

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        # Scaled before the cast: float16 has no digits for an unscaled gradient.
        scaled = (
            None if gradient is None else (gradient * loss_gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *scaled, None, None, None


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without memory for the product where the types allow."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
