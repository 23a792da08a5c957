"""Which implementation of an attention op runs: the loop of the reference, torch's own operations, or Triton kernels.

MOMENTUM_FAIRSEQ_KERNEL=reference|torch|triton in the environment settles it. Without it, tensors on a CUDA device that the
kernels take go to Triton and all others to torch; so does float32 where torch may not use TF32, since Triton multiplies exact
float32 numbers without tensor cores, in more registers than there are. TRITON_INTERPRET=1, set before triton is first imported,
lets Triton run on a CPU, slowly.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

from momentum_fairseq.ops.feature_maps import FeatureMap, elu_plus_one, feature_width

VARIABLE = "MOMENTUM_FAIRSEQ_KERNEL"
KERNELS = ("reference", "torch", "triton")
HAS_TRITON = find_spec("triton") is not None
LARGEST_DIM = 256  # of D and M: two states of a head, in blocks, are held in registers
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_settled = threading.local()


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Let the ops within be computed by the implementation of that name, in this thread, whatever the environment says."""
    before = getattr(_settled, "name", None)
    _settled.name = name
    try:
        yield
    finally:
        _settled.name = before


def kernel_for(q: Tensor, v: Tensor, feature_map: FeatureMap | None = None) -> str:
    """The implementation for q `[..,D]`, of which φ is yet to be taken, and v `[..,M]`: "reference", "torch" or "triton".

    Where they are empty there is nothing to launch: "torch" in place of "triton".

    Raises:
        ValueError: MOMENTUM_FAIRSEQ_KERNEL is none of the three, or triton where it can't run.
    """
    choice = getattr(_settled, "name", None) or os.environ.get(VARIABLE, "")
    if choice == "":
        by_tensor_cores = q.device.type == "cuda" and (torch.float32 not in (q.dtype, v.dtype) or allows_tf32())
        choice = "triton" if by_tensor_cores and why_not_triton(q, v, feature_map) is None else "torch"
    elif choice not in KERNELS:
        raise ValueError(f"{VARIABLE}={choice}: choose from {', '.join(KERNELS)}, or leave it unset")
    elif choice == "triton":
        reason = why_not_triton(q, v, feature_map)
        if reason is not None:
            raise ValueError(f"{VARIABLE}=triton: {reason}; set it to torch or leave it unset")
    return "torch" if choice == "triton" and 0 in (*q.shape, *v.shape) else choice


def map_where_needed(q: Tensor, k: Tensor, feature_map: FeatureMap | None, kernel: str) -> tuple[Tensor, Tensor, bool]:
    """q and k, feature-mapped unless Triton's kernel takes elu + 1 on the way, and whether they are."""
    if kernel == "triton" and feature_map is elu_plus_one:
        return q, k, False
    return (q, k, True) if feature_map is None else (feature_map(q), feature_map(k), True)


def why_not_triton(q: Tensor, v: Tensor, feature_map: FeatureMap | None = None) -> str | None:
    """What keeps the kernels from these tensors; None where nothing does."""
    if not HAS_TRITON:
        return "triton is not installed"
    if q.device.type != "cuda" and not (q.device.type == "cpu" and interpreted()):
        return f"the tensors are on {q.device}, and the kernels run on cuda (on cpu with TRITON_INTERPRET=1)"
    if q.dtype not in DTYPES or v.dtype not in DTYPES:
        return f"the kernels take float32, bfloat16 and float16, got q {q.dtype}, v {v.dtype}"
    width = feature_width(q, feature_map)
    if max(width, v.shape[-1]) > LARGEST_DIM:
        return f"the kernels take D and M up to {LARGEST_DIM}, got D = {width}, M = {v.shape[-1]}"
    return None


def allows_tf32() -> bool:
    """Whether torch may multiply float32 numbers as TF32. Its older switch can't be read once the newer one is set."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


# torch.compile can't trace it, and starts anew where it changes. torch.compiler.assume_constant_result does the same, but would
# import all of torch.compile, triton too, with this file.
allows_tf32._dynamo_marked_constant = True


def interpreted() -> bool:
    """Whether Triton's kernels are run by its interpreter, on a CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"
