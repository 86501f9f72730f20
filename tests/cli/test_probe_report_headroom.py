"""What a new probe says of the most that its prompts can earn."""

from es_lightning.cli.probe import largest_reward
from es_lightning.tasks import LogLikelihood, PythonRewards, Sums
from tests.contracts.test_tasks import exact


def test_a_log_likelihood_is_at_most_0_and_replies_earn_what_their_task_says() -> None:
    assert largest_reward(Sums(), Sums().problems("train")[:4]) == 1.0
    assert largest_reward(Sums(), LogLikelihood(Sums()).problems("train")[:4]) == 0.0
    assert largest_reward(LogLikelihood(Sums()), LogLikelihood(Sums()).problems("val")[:4]) is None
    own = PythonRewards("sample", [exact])
    assert largest_reward(own, own.problems("train")[:4]) is None
