"""What fairseq-generate gets from decoding, and what decoding refuses."""

import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.dataclass.configs import GenerationConfig

from tests.refinement_generator.decoding import decode, run, sample, sentences, tokens


def test_repeats_are_collapsed_by_the_option_only(generator):
    script = [[[5, 5, 6, 6, 6, 5]]]
    (plain,), _ = run(generator(), script)
    (collapsed,), _ = run(generator(collapse_repeats=True, retain_history=True), script)
    assert plain["tokens"].tolist() == [5, 5, 6, 6, 6, 5]
    assert collapsed["tokens"].tolist() == [5, 6, 5]
    assert collapsed["positional_scores"].tolist() == [0, -2, -5]  # of the first of equal ones
    assert collapsed["score"] == pytest.approx(-7 / 3)
    assert collapsed["history"][0]["tokens"].tolist() == [5, 5, 6, 6, 6, 5]


def test_history_is_kept_by_the_option_only(build_model, generator):
    model, rows = build_model(), sentences(3)
    assert all("history" not in h for (h,) in decode(generator(), model, rows))
    for (found,) in decode(generator(retain_history=True), model, rows):
        assert len(found["history"]) == found["steps"]
        assert found["history"][-1]["tokens"].tolist() == found["tokens"].tolist()


def test_outputs_have_no_bos_eos_or_padding_and_scores_can_be_changed_in_place(build_model, generator):
    for (found,) in decode(generator(), build_model(), sentences(20)):
        assert (found["tokens"] >= 3).all()
        expected = found["positional_scores"] / math.log(2)
        assert torch.equal(found["positional_scores"].div_(math.log(2)), expected)
        assert found["alignment"] is None


def test_a_model_that_fairseq_prepared_for_inference_decodes(build_model, generator):
    rows, model, prepared = sentences(9), build_model(), build_model()
    prepared.prepare_for_inference_(SimpleNamespace(generation=GenerationConfig(), common_eval=None))
    assert tokens(decode(generator(), prepared, rows)) == tokens(decode(generator(), model, rows))


def test_dropout_is_off_while_decoding(build_model, generator):
    model, rows = build_model(dropout=0.5).train(), sentences(9)
    assert tokens(decode(generator(), model, rows)) == tokens(decode(generator(), model, rows))


def test_ensembles_prefixes_and_constraints_are_refused(build_model, generator):
    model, batch = build_model(), sample(sentences(2))
    with pytest.raises(ValueError, match="decodes with one model, got an ensemble of 2"):
        generator().generate([model, model], batch)
    for refused in ("prefix_tokens", "constraints"):
        with pytest.raises(ValueError, match=r"can't honour a prefix \(--prefix-size\) or --constraints"):
            generator().generate([model], batch, **{refused: torch.tensor([[5]])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, r"max_steps \(--iter-decode-max-iter\) must be at least 1, got 0: the initial"),
        ({"stopping": "never"}, "unknown stopping rule 'never'; choose from equality, jaccard"),
        ({"window": 1}, r"window \(--stopping-window\) must be at least 2, got 1"),
        ({"length_beam": 0}, r"length_beam \(--iter-decode-with-beam\) must be at least 1, got 0"),
        ({"length_beam": 3, "oracle_length": True}, "oracle lengths leave nothing to a length beam of 3"),
    ],
)
def test_a_bad_value_is_refused(generator, options, message):
    with pytest.raises(ValueError, match=message):
        generator(**options)
