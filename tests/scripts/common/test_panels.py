"""The command line that the plots of benchmarks share."""

import sys

import pytest
from common import panels

USAGE = "Plot times: python plot.py times.json times.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "record.json: not the JSON of a benchmark .*No such file"),
        ("{", "record.json: not the JSON of a benchmark"),
        ("{}", "record.json: the JSON of something else .KeyError.'times'... Plot times: "),
        ("[]", "record.json: the JSON of something else .TypeError"),
    ],
)
def test_what_is_no_record_to_plot_is_refused_by_name(tmp_path, monkeypatch, text, message):
    record = tmp_path / "record.json"
    if text is not None:
        record.write_text(text)
    monkeypatch.setattr(sys, "argv", ["plot.py", str(record), str(tmp_path / "times.png")])
    with pytest.raises(SystemExit, match=message):
        panels.main(lambda record, path: record["times"], USAGE)
    assert not (tmp_path / "times.png").exists()
