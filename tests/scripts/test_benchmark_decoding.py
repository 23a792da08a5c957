"""The benchmark of decoding, through its command line, at a tiny size."""

import json
import sys
from pathlib import Path

import benchmark_decoding
import pytest

SIZE = "--embed-dim 8 --ffn-dim 8 --layers 1 --vocabulary 30 --words 3 5 --runs 1 --steps 2 --batches 4 --cpu"


def benchmark(out: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["benchmark_decoding.py", *SIZE.split(), "--out", str(out)])
    benchmark_decoding.main()
    return json.loads(out.read_text(encoding="utf-8"))["rows"]


def test_rows_that_differ_in_speed_alone_have_the_same_tokens(tmp_path, monkeypatch):
    rows = benchmark(tmp_path / "decoding.json", monkeypatch)
    others = {row["row"]: row["sentences_with_other_tokens"] for row in rows if "sentences_with_other_tokens" in row}
    assert others == dict.fromkeys(benchmark_decoding.SAME_TOKENS, 0)
    assert all(row["subwords_per_second"] > 0 for row in rows)


def test_other_tokens_are_an_error_that_loses_no_times(tmp_path, monkeypatch):
    first = benchmark_decoding.whole_logits
    monkeypatch.setattr(benchmark_decoding, "whole_logits", lambda *inputs: first(*inputs).clamp_max(5))
    out = tmp_path / "decoding.json"
    with pytest.raises(SystemExit, match=r"speed alone:\nbatch 4: [1-8] sentences have other tokens in momentum, unfused"):
        benchmark(out, monkeypatch)
    rows = {row["row"]: row for row in json.loads(out.read_text(encoding="utf-8"))["rows"]}
    assert rows[benchmark_decoding.UNFUSED]["sentences_with_other_tokens"] > 0
    assert rows["softmax"]["subwords_per_second"] > 0
