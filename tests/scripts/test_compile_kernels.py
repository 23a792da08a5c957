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


@pytest.mark.parametrize("capability", ["10.3", "12.0"])
def test_blackwells_are_known(capability):
    result = run(SCRIPT, "--capability", capability, "--only", "no such case")
    assert result.returncode == 0 and f"0 kernels compiled for {capability}" in result.stdout, result.stderr


@pytest.mark.parametrize("capability", ["h100", "8.1"])
def test_a_capability_whose_shared_memory_is_unknown_is_refused_with_those_that_are_known(capability):
    result = run(SCRIPT, "--capability", capability)
    assert result.returncode == 2 and f"invalid choice: '{capability}'" in result.stderr
    assert "'8.0'" in result.stderr and "'8.6'" in result.stderr and "'9.0'" in result.stderr
