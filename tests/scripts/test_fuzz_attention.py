"""A bounded part of the fuzz, and that it finds a fault."""

import json
import sys
from pathlib import Path

import fuzz_attention
import pytest
from common import attention_forms

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
KERNEL_FORMS = {"kernel", "kernel without padding", "causal kernel"}


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "fuzz_attention.py"), *map(str, arguments)])
    return fuzz_attention.main()


def test_all_forms_are_the_recurrence_on_random_cases():
    forms = fuzz_attention.fuzz(range(100), seed=2, kernel_share=0.04 if fuzz_attention.HAS_TRITON else 0)
    assert {name: form.failures for name, form in forms.items() if form.failures} == {}
    assert {"causal", "causal in pieces", "step by step", "linear order", "without padding"} <= forms.keys()
    assert not fuzz_attention.HAS_TRITON or forms.keys() >= KERNEL_FORMS


def test_a_fault_is_found_and_recorded(monkeypatch, tmp_path, capsys):
    right = attention_forms.MOMENTUM_MODULE.momentum_weights
    monkeypatch.setattr(attention_forms.MOMENTUM_MODULE, "momentum_weights", lambda *x, **options: 1.001 * right(*x, **options))
    out = tmp_path / "fuzz.json"
    assert call(monkeypatch, "--cases", 12, "--kernel-share", 0, "--out", out) == 1
    forms = json.loads(out.read_text())["forms"]
    assert forms["linear order"]["failures"] and not forms["causal"]["failures"]
    worst = max(forms["linear order"]["failures"], key=lambda failure: failure["error"])
    assert worst["error"] == pytest.approx(0.001, rel=0.5)
    assert "failed" in capsys.readouterr().out


def test_a_form_that_raises_is_a_failure_with_its_message(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ArithmeticError("broken")

    monkeypatch.setattr(attention_forms, "momentum_attention", broken)
    assert call(monkeypatch, "--cases", 2, "--kernel-share", 0, "--out", tmp_path / "fuzz.json") == 1
    failures = json.loads((tmp_path / "fuzz.json").read_text())["forms"]["quadratic order"]["failures"]
    assert [failure["message"] for failure in failures] == ["ArithmeticError: broken"] * 2


def test_a_case_alone_is_the_case_among_others(monkeypatch, capsys):
    assert call(monkeypatch, "--seed", 3, "--only", 5, "--kernel-share", 0) == 0
    assert "1 cases, 0 failures" in capsys.readouterr().out
    assert fuzz_attention.draw_case(3, 5, 0) == fuzz_attention.draw_case(3, 5, 0) != fuzz_attention.draw_case(3, 6, 0)
