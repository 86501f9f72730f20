"""The pairs of a curvature run as a probe of one objective."""

from pathlib import Path

import numpy as np
import pytest

from es_lightning.errors import UsageError
from es_lightning.landscape import known
from es_lightning.landscape.curvature.measured_pairs import (
    PAIRS,
    is_curvature_run,
    of_objective,
    problems_of_pairs,
)
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.landscape.probing.results import ProbeResults
from es_lightning.tasks import LogLikelihood
from tests.helpers.letters import Letters

SETTINGS = ProbeSettings(sigmas=(0.1, 0.2), members=8, batches=1, prompts=3, antithetic=True, largest=1)


def measured(folder: Path, ids: list[str]) -> ProbeResults:
    """A finished run on a quadratic whose prompts differ."""
    landscape = known.quadratic(3, prompts=len(ids), start=0.7)
    return Probe(landscape, SETTINGS, folder / PAIRS, {"prompt_ids": ids}).run()


def test_each_objective_has_its_own_half_of_the_prompts(tmp_path: Path) -> None:
    whole = measured(tmp_path, [*"abc", *"abc"])
    assert is_curvature_run(tmp_path)
    assert not is_curvature_run(tmp_path / PAIRS)
    for objective, own in (("log_likelihood", slice(0, 3)), ("reward", slice(3, 6))):
        part = of_objective(whole, objective)
        assert part.header["prompt_ids"] == list("abc")
        np.testing.assert_array_equal(part.centre, whole.centre[own])
        np.testing.assert_array_equal(part.rewards(0.2), whole.rewards(0.2)[..., own])
        changes, signs, seeds = part.at(0.1)
        np.testing.assert_array_equal(changes, whole.rewards(0.1)[0][:, own] - whole.centre[own])
        assert signs.tolist() == [1, -1] * 4
        assert seeds[::2] == seeds[1::2] == part.seeds


def test_a_run_of_rewards_alone_has_no_log_likelihoods(tmp_path: Path) -> None:
    landscape = known.quadratic(3, prompts=3, start=0.7)
    about = {"prompt_ids": list("abc"), "objective": "reward"}
    whole = Probe(landscape, SETTINGS, tmp_path / "mine" / PAIRS, about).run()
    np.testing.assert_array_equal(of_objective(whole, "reward").rewards(0.2), whole.rewards(0.2))
    with pytest.raises(UsageError, match=r"mine has no log-likelihoods.*curvature.likelihood false"):
        of_objective(whole, "log_likelihood")
    with pytest.raises(UsageError, match="does not know the right answer"):
        LogLikelihood(Letters()).problems("train")
    problems = problems_of_pairs(whole, Letters())
    assert [each for each, _ in problems] == list("abc")
    assert set(problems[0][1]) == {f"train/{index}" for index in range(Letters.count)}


def test_a_run_without_rewards_says_what_it_lacks(tmp_path: Path) -> None:
    whole = measured(tmp_path / "mine", list("abc"))
    assert of_objective(whole, "log_likelihood").at(0.1)[0].shape == (8, 3)
    with pytest.raises(UsageError, match=r"mine has no rewards prompt by prompt.*curvature.rewards false"):
        of_objective(whole, "reward")
