"""The Triton kernels compile for a GPU, although there is none here."""

import pytest

from tests.scripts.commands import run

pytest.importorskip("triton")
SCRIPT = "scripts/compile_kernels.py"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["causal momentum, segments", "non-causal", "step"])
def test_kernels_compile_and_fit_a_gpu(part):
    result = run(SCRIPT, "--capability", "9.0", "--dims", "32", "--dtypes", "bfloat16", "--only", part)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 of them too large" in result.stdout and "registers" in result.stdout


def test_an_unknown_capability_is_named():
    result = run(SCRIPT, "--capability", "h100")
    assert result.returncode == 2 and "--capability h100: must be like 8.0, 9.0 or 10.0" in result.stderr
