"""Fixtures of the tests of decoding."""

import pytest

from momentum_fairseq.refinement_generator import RefinementGenerator


@pytest.fixture
def generator(dictionary):
    return lambda **options: RefinementGenerator(dictionary, **options)
