"""When decoding stops: by the rules, at the last step, and with what result."""

import pytest

from tests.refinement_generator.decoding import decode, restless, run, sentences

A, B, C = [5, 6, 7], [6, 5, 7], [5, 6, 8]


@pytest.mark.parametrize(
    ("script", "steps", "output"),
    [([A, A, B], 2, A), ([A, B, B, C], 3, B), ([A, B, A, B, A, B, A], 6, B), ([A, B, C, A, B, C], 6, C)],
)
def test_equality_stops_where_the_output_repeats_or_at_the_last_step(generator, script, steps, output):
    (hypothesis,), _ = run(generator(max_steps=6), [script])
    assert (hypothesis["steps"], hypothesis["tokens"].tolist()) == (steps, output)


@pytest.mark.parametrize(
    ("script", "window", "steps", "output"),
    [
        ([A, B, A, B, C], 3, 3, A),  # the same words in any order
        ([A, B, C, C, C], 3, 5, C),
        ([A, A, C, C, C], 2, 2, A),
        ([A, C, A, C, A, C, A, C], 3, 8, C),
        ([[5, 5, 6], [5, 6, 6], [5, 5, 6]], 2, 4, [5, 5, 6]),  # multisets, not sets
    ],
)
def test_jaccard_stops_where_the_words_stay_over_the_window(generator, script, window, steps, output):
    (hypothesis,), _ = run(generator(max_steps=8, stopping="jaccard", window=window), [script])
    assert (hypothesis["steps"], hypothesis["tokens"].tolist()) == (steps, output)


def test_finished_sentences_leave_the_batch_and_results_keep_the_order(generator):
    scripts = [[A, B, C, C], [A, A], [[5, 6, 7, 8], [9] * 4, [9] * 4]]
    found, model = run(generator(max_steps=6, retain_history=True), scripts)
    assert [h["steps"] for h in found] == [4, 2, 3]
    assert [h["tokens"].tolist() for h in found] == [C, A, [9] * 4]
    assert model.passes == [[0, 1, 2], [0, 1, 2], [0, 2], [0]]
    assert [step["tokens"].tolist() for step in found[0]["history"]] == [A, B, C, C]
    assert [step["tokens"].tolist() for step in found[2]["history"]] == [[5, 6, 7, 8], [9] * 4, [9] * 4]


def test_a_fixed_number_of_steps_runs_them_all(generator):
    (hypothesis,), model = run(generator(max_steps=5, adaptive=False), [[A, A, A]])
    assert (hypothesis["steps"], len(model.passes)) == (5, 5)


def test_one_step_is_the_initial_translation(generator):
    (hypothesis,), model = run(generator(max_steps=1), [[A, B]])
    assert (hypothesis["steps"], hypothesis["tokens"].tolist(), len(model.passes)) == (1, A, 1)


def test_an_adaptive_result_is_the_fixed_runs_at_its_first_repetition(build_model, generator):
    model, rows = restless(build_model, connection="adaptive"), sentences()
    fixed = decode(generator(max_steps=12, adaptive=False, retain_history=True), model, rows)
    adaptive = decode(generator(max_steps=12), model, rows)
    steps = [hypotheses[0]["steps"] for hypotheses in adaptive]
    assert min(steps) < 12
    for (found,), (every,) in zip(adaptive, fixed, strict=True):
        outputs = [step["tokens"].tolist() for step in every["history"]]
        repeats = [i for i in range(1, 12) if outputs[i] == outputs[i - 1]]
        assert found["steps"] == (repeats[0] + 1 if repeats else 12)
        assert found["tokens"].tolist() == outputs[found["steps"] - 1]


@pytest.mark.parametrize("adaptive", [False, True])
def test_10_steps_are_the_first_10_of_a_longer_run(build_model, generator, adaptive):
    model, rows = restless(build_model), sentences(20)
    short, long = (decode(generator(max_steps=steps, adaptive=adaptive, retain_history=True), model, rows) for steps in (10, 15))
    assert max(len(h["history"]) for (h,) in long) > 10
    for (a,), (b,) in zip(short, long, strict=True):
        outputs = [step["tokens"].tolist() for step in a["history"]]
        assert outputs == [step["tokens"].tolist() for step in b["history"][:10]]
        assert a["tokens"].tolist() == outputs[-1]
