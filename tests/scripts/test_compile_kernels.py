"""The Triton kernels compile for a GPU, although there is none here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compile_kernels.py"


def compile_kernels(*flags: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["causal momentum, segments", "non-causal", "step"])
def test_kernels_compile_and_fit_a_gpu(part):
    result = compile_kernels("--capability", "9.0", "--dims", "32", "--dtypes", "bfloat16", "--only", part)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 of them too large" in result.stdout and "registers" in result.stdout


def test_an_unknown_capability_is_named():
    result = compile_kernels("--capability", "h100")
    assert result.returncode == 2 and "--capability h100: must be like 8.0, 9.0 or 10.0" in result.stderr
