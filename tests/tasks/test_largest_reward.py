"""The largest reward that a task tells is what the best completion earns."""

import pytest

from es_lightning.tasks import LogLikelihood, Mixture, ProofWriter, Sums
from tests.contracts.test_tasks import CASES

UNKNOWN = {"sums-log-likelihood", "python", "mixture"}
"""Tasks with another reward in training, functions of a user, and rewards of several scales."""


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_the_best_completion_earns(name: str) -> None:
    case = CASES[name]
    assert case.make().largest_reward == (None if name in UNKNOWN else case.maximum)


def test_it_follows_the_options() -> None:
    assert ProofWriter("sample", format_reward=0.5).largest_reward == 1.5
    assert LogLikelihood(Sums()).largest_reward is None
    assert Mixture([Sums(3), Sums(4)]).largest_reward is None
