"""The causal kernels through Triton's compiler for GPUs that needn't be there: the interpreter takes what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
# Runs each launch as far as the machine code, for a GPU of the architecture; prints every kernel's name and shared memory.
PROGRAM = """
import json, sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class Elsewhere:
    get_current_device = get_current_stream = lambda self, *_: 0
    get_current_target = lambda self: GPUTarget("cuda", int(sys.argv[1]), 32)
    get_active_torch_device = lambda self: torch.device("cpu")

driver.set_active(Elsewhere())
run, shared = JITFunction.run, {}

def compile_only(self, *arguments, grid, warmup, **options):
    compiled = run(self, *arguments, grid=grid, warmup=True, **options)
    assert compiled.asm["cubin"]
    shared.setdefault(self.fn.__name__, []).append(compiled.metadata.shared)

JITFunction.run = compile_only
from momentum_fairseq.ops.kernels import causal_launches
from momentum_fairseq.ops.kernels.causal import causal_attention_by_triton

causal_launches.TILES[9] = causal_launches.TILES[int(sys.argv[1]) // 10]  # those that a machine without a GPU takes
causal_launches.number_of_segments = lambda *_: 2
q, k, v = (torch.zeros(2, 2, 300, 17, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv")
beta, gamma = (torch.full((2,), 0.5, requires_grad=True) for _ in "bg")
state = [torch.zeros(size, requires_grad=True) for size in ((2, 2, 17, 17), (2, 2, 17, 17), (2, 2, 17))]
out, state = causal_attention_by_triton(
    q, k, v, momentum=beta, step_size=gamma, key_padding_mask=torch.zeros(2, 300, dtype=torch.bool), initial_state=state,
    return_state=True, feature_map=True,
)
(out.sum() + sum(x.sum() for x in state)).backward()
print(json.dumps(shared))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "shared_memory"), [(80, 163 * 1024), (90, 227 * 1024)])
def test_every_kernel_compiles_and_fits_into_shared_memory(architecture, shared_memory, tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, str(architecture)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    shared = json.loads(result.stdout)
    launches = {name: len(sizes) for name, sizes in shared.items()}
    assert launches == {"attend": 4, "summarise": 3, "scan": 6, "prepare_gradients": 1, "differentiate_momentum": 1}
    assert max(size for sizes in shared.values() for size in sizes) <= shared_memory
