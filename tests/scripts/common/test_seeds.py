"""Which results can be seeds of one row."""

from common.seeds import clash


def test_results_that_name_no_seed_are_not_taken_for_the_same_one():
    assert clash({"name": "linear"}, {"name": "linear"}) is None
    assert clash({"name": "linear", "seed": 1}, {"name": "linear", "seed": 1}) == "both of row linear, seed 1; leave one out"
