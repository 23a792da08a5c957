"""Compile every Triton kernel for a GPU that needn't be there, and show what each takes of it.

  python scripts/compile_kernels.py [--capability 9.0] [--dims 64 128 256] [--dtypes bfloat16 float32]

A row a kernel: registers a thread, bytes a thread that didn't fit into them and went to the stack, and shared memory a block.
The interpreter, through which the tests run the kernels on a CPU, takes code that no GPU would; this compiles it.
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # before triton is imported: it decides what a kernel is

import common  # noqa: F401  (finds the package)
import torch
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from momentum_fairseq.ops.kernels import causal, causal_setting, noncausal, step

CUOBJDUMP = Path(triton.backends.nvidia.__path__[0]) / "bin" / "cuobjdump"
# KiB that a block may have, by capability (CUDA programming guide).
SHARED_MEMORY = {"8.0": 163, "8.6": 99, "8.7": 163, "8.9": 99, "9.0": 227, "10.0": 227, "10.3": 227, "12.0": 99}
BATCH, HEADS, LENGTH, SHORT = 2, 2, 256, 24


class AbsentGpu:
    """What Triton asks of a device before it compiles for it."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """Compiles the kernels that are launched instead of running them, and keeps what each takes.

    Args:
        limit: bytes of shared memory that a block may have.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.rows: list[dict[str, Any]] = []
        self.case = ""
        run = JITFunction.run
        seen: set[str] = set()

        def compile_only(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            started = time.perf_counter()
            compiled = run(kernel, *args, grid=grid, warmup=True, **options)
            if compiled.hash not in seen:
                seen.add(compiled.hash)
                self.rows.append(
                    {
                        "case": self.case,
                        "kernel": kernel.fn.__name__,
                        **resources(compiled.asm["cubin"]),
                        "shared": compiled.metadata.shared,
                        "fits": compiled.metadata.shared <= self.limit,
                        "seconds": time.perf_counter() - started,
                    }
                )
                print(show(self.rows[-1]), flush=True)
            return compiled

        JITFunction.run = compile_only


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and stack bytes of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        dump = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", dump).groups()
    return {"registers": int(registers), "stack": int(stack)}


def show(row: dict[str, Any]) -> str:
    fits = "" if row["fits"] else "  DOESN'T FIT"
    return (
        f"{row['case']:42} {row['kernel']:26} registers {row['registers']:3}  stack {row['stack']:5}  "
        f"shared {row['shared']:6}  {row['seconds']:5.1f} s{fits}"
    )


def tensors(length: int, dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.rand(BATCH, HEADS, length, dim, dtype=dtype).requires_grad_() for _ in range(3)]


def launch_causal(dim: int, dtype: torch.dtype, momentum: float | torch.Tensor | None, segments: int, plain: bool) -> None:
    """Forward and backward; unless `plain` with all that there may be: padding, states in and out, φ."""
    causal_setting.number_of_segments = lambda device, programs, chunks: segments
    q, k, v = tensors(LENGTH, dim, dtype)
    if plain:
        causal.causal_attention_by_triton(q, k, v, momentum=momentum, step_size=0.6)[0].float().sum().backward()
        return
    matrices = [torch.rand(BATCH, HEADS, dim, dim).requires_grad_() for _ in range(2)]
    state = (*matrices, torch.rand(BATCH, HEADS, dim).requires_grad_())
    out, last = causal.causal_attention_by_triton(
        q, k, v, momentum=momentum, step_size=0.6, key_padding_mask=torch.zeros(BATCH, LENGTH, dtype=torch.bool),
        initial_state=state, return_state=True, feature_map=True,
    )  # fmt: skip
    (out.float().sum() + last[0].sum()).backward()


def launch_sequences(dim: int, dtype: torch.dtype) -> None:
    """Forward and backward over sequences without padding, each from a state of its own, in segments."""
    causal_setting.number_of_segments = lambda device, programs, chunks: 2
    q, k, v = (x.detach()[:1].requires_grad_() for x in tensors(LENGTH, dim, dtype))
    state = (torch.rand(2, HEADS, dim, dim), torch.rand(2, HEADS, dim, dim), torch.rand(2, HEADS, dim))
    out, _ = causal.causal_attention_by_triton(
        q, k, v, momentum=torch.full((HEADS,), 0.6).requires_grad_(), step_size=0.6, initial_state=state, return_state=True,
        bounds=torch.tensor([0, LENGTH // 4, LENGTH], dtype=torch.int32), longest=LENGTH,
    )  # fmt: skip
    out.float().sum().backward()


def launch_noncausal(length: int, dim: int, dtype: torch.dtype, weights: bool) -> None:
    """Forward and backward with padding and φ."""
    q, k, v = tensors(length, dim, dtype)
    given = torch.rand(HEADS, length).requires_grad_() if weights else None
    padding = torch.zeros(BATCH, length, dtype=torch.bool)
    out = noncausal.attend(q, k, v, weights=given, momentum=0.6, step_size=0.6, key_padding_mask=padding, mapped=False)
    out.float().sum().backward()


def launch_step(dim: int, dtype: torch.dtype, momentum: float | None, splits: int) -> None:
    """The first position and one more, over the state; a head's columns shared by so many programs, where there are as many."""
    step.number_of_splits = lambda device, programs, blocks: min(blocks, splits)
    q, k, v = (x.detach()[:, :, 0] for x in tensors(1, dim, dtype))
    state = None
    for _ in range(2):
        _, state = step.step(q, k, v, state, momentum=momentum, in_place=True, mapped=False)


def cases(dims: list[int], dtypes: list[str]) -> list[tuple[str, Callable[..., None], tuple[Any, ...]]]:
    """Name, launcher and its arguments."""
    learned, found = torch.full((HEADS,), 0.6), []
    for dim in dims:
        for name in dtypes:
            dtype, size = getattr(torch, name), f"D = {dim}, {name}"
            beta = learned.clone().requires_grad_()
            found += [
                (f"causal momentum, plain, {size}", launch_causal, (dim, dtype, 0.6, 1, True)),
                (f"causal momentum, plain, two states, {size}", launch_causal, (dim, dtype, 0.9, 1, True)),
                (f"causal linear, plain, {size}", launch_causal, (dim, dtype, None, 1, True)),
                (f"causal momentum, {size}", launch_causal, (dim, dtype, beta, 1, False)),
                (f"causal momentum, segments, {size}", launch_causal, (dim, dtype, beta, 2, False)),
                (f"causal linear, {size}", launch_causal, (dim, dtype, None, 1, False)),
                (f"causal momentum, sequences, {size}", launch_sequences, (dim, dtype)),
                (f"non-causal, long, {size}", launch_noncausal, (4 * LENGTH, dim, dtype, False)),
                (f"non-causal, long, weights, {size}", launch_noncausal, (4 * LENGTH, dim, dtype, True)),
                (f"non-causal, short, {size}", launch_noncausal, (SHORT, dim, dtype, False)),
                (f"step, momentum, {size}", launch_step, (dim, dtype, 0.6, 1)),
                (f"step, momentum, shared, {size}", launch_step, (dim, dtype, 0.6, 2)),
                (f"step, linear, {size}", launch_step, (dim, dtype, None, 1)),
            ]
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = f"of the GPU, one of {', '.join(SHARED_MEMORY)}: 8.0 is an A100, 9.0 an H100 or H200 (9.0)"
    parser.add_argument("--capability", choices=SHARED_MEMORY, default="9.0", metavar="X.Y", help=about)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 256], help="D and M (64 128 256)")
    dtypes, default = ("bfloat16", "float16", "float32"), ["bfloat16", "float32"]
    parser.add_argument("--dtypes", nargs="+", default=default, choices=dtypes, help="of q, k and v (bfloat16 float32)")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args(arguments)
    driver.set_active(AbsentGpu(int(options.capability.replace(".", ""))))
    compiled = Compiled(1024 * SHARED_MEMORY[options.capability])
    for case, launch, given in cases(options.dims, options.dtypes):
        if options.only in case:
            compiled.case = case
            launch(*given)
    unfit = [show(row) for row in compiled.rows if not row["fits"]]
    print(f"{len(compiled.rows)} kernels compiled for {options.capability}, {len(unfit)} of them too large for its shared memory")
    if unfit:
        raise SystemExit("\n".join(unfit))


if __name__ == "__main__":
    main()
