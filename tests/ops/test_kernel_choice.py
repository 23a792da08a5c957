import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from momentum_fairseq.ops import FEATURE_MAPS, kernel_choice
from momentum_fairseq.ops.kernel_choice import VARIABLE, kernel_for


def tensors(*, dim=8, value_dim=8, dtype=torch.float32, device="cpu"):
    return torch.zeros(1, 1, 4, dim, dtype=dtype, device=device), torch.zeros(1, 1, 4, value_dim, dtype=dtype, device=device)


@pytest.mark.parametrize("choice", kernel_choice.KERNELS)
def test_the_variable_settles_it(choice, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv(VARIABLE, choice)
    assert kernel_for(*tensors()) == choice


@pytest.mark.parametrize("value", [None, ""])
def test_unset_or_empty_tensors_on_a_cpu_go_to_torch(value, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert kernel_for(*tensors()) == "torch"


@pytest.mark.parametrize(
    ("dtypes", "dim", "tf32", "kernel"),
    [
        ([torch.bfloat16] * 2, 256, False, "triton"),
        ([torch.float16] * 2, 64, False, "triton"),
        ([torch.float32] * 2, 64, True, "triton"),
        ([torch.float32] * 2, 64, False, "torch"),
        ([torch.bfloat16, torch.float32], 64, False, "torch"),
        ([torch.float64] * 2, 64, True, "torch"),
        ([torch.bfloat16] * 2, 257, False, "torch"),
    ],
)
def test_unset_tensors_on_a_gpu_go_to_triton_where_tensor_cores_can_multiply_them(dtypes, dim, tf32, kernel, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(kernel_choice, "allows_tf32", lambda: tf32)
    q, v = (SimpleNamespace(device=torch.device("cuda"), dtype=dtype, shape=(1, 1, 4, dim)) for dtype in dtypes)
    assert kernel_for(q, v) == kernel


def test_a_name_settles_it_within_its_own_context(monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    with kernel_choice.kernel("torch"):
        with kernel_choice.kernel("reference"):
            assert kernel_for(*tensors()) == "reference"
        assert kernel_for(*tensors()) == "torch"
    assert kernel_for(*tensors()) == "reference"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("fp32_precision", "tf32", True),
        ("fp32_precision", "ieee", False),
        ("fp32_precision", "none", False),
        ("allow_tf32", True, True),
        ("allow_tf32", False, False),
    ],
)
def test_both_of_torchs_switches_allow_tf32_and_neither_fails(name, value, allowed, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    switches = torch.backends.cuda.matmul
    before = switches.fp32_precision
    setattr(switches, name, value)
    try:
        assert kernel_choice.allows_tf32() is allowed
        assert kernel_for(*tensors()) == "torch"
    finally:
        switches.fp32_precision = before


def test_torch_compile_starts_anew_where_the_switch_changes():
    compiled = torch.compile(lambda x: x + kernel_choice.allows_tf32(), fullgraph=True, backend="eager")
    switches = torch.backends.cuda.matmul
    before = switches.fp32_precision
    try:
        for value, allowed in (("ieee", 0), ("tf32", 1), ("ieee", 0)):
            switches.fp32_precision = value
            assert compiled(torch.zeros(())) == allowed
    finally:
        switches.fp32_precision = before


def test_an_unknown_name_is_refused_with_the_choices(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(ValueError, match="MOMENTUM_FAIRSEQ_KERNEL=cuda: choose from reference, torch, triton"):
        kernel_for(*tensors())


@pytest.mark.parametrize(
    ("interpret", "options", "reason"),
    [
        ("0", {}, "the tensors are on cpu"),
        ("1", {"device": "meta"}, "the tensors are on meta"),
        ("1", {"dtype": torch.float64}, r"got q torch.float64, v torch.float64"),
        ("1", {"dim": 257}, "D and M up to 256, got D = 257, M = 8"),
        ("1", {"value_dim": 300}, "got D = 8, M = 300"),
    ],
)
def test_triton_is_refused_where_it_cannot_run(interpret, options, reason, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(ValueError, match=f"MOMENTUM_FAIRSEQ_KERNEL=triton: .*{reason}.*; set it to torch"):
        kernel_for(*tensors(**options))


def test_the_width_that_counts_is_that_of_the_features(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv(VARIABLE, "triton")
    q, v = tensors(dim=139)
    assert kernel_for(q, v, FEATURE_MAPS["elu"]) == "triton"
    with pytest.raises(ValueError, match="D and M up to 256, got D = 278, M = 8"):
        kernel_for(q, v, FEATURE_MAPS["hedgehog"])


def test_without_triton_the_package_computes_with_torch_and_says_what_is_missing():
    program = """
import sys
sys.modules["triton"] = None
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find_spec(name, *rest)
import os, torch
from momentum_fairseq.ops import causal_momentum_attention
x = torch.rand(1, 1, 3, 4)
causal_momentum_attention(x, x, x, momentum=0.5, step_size=1.0)
os.environ["MOMENTUM_FAIRSEQ_KERNEL"] = "triton"
from momentum_fairseq.ops.kernel_choice import kernel_for
try:
    kernel_for(x, x)
except ValueError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "MOMENTUM_FAIRSEQ_KERNEL=triton: triton is not installed; set it to torch or leave it unset\n"
