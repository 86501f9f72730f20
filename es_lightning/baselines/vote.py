"""A vote of the best candidates: the arithmetic, without models.

Random perturbations of a model are ranked on some prompts, and the best K answer other prompts together: the
answer of the majority counts (RandOpt, arXiv 2603.12228). The task's grader judges a completion that gave
that answer, so the reward of a vote is one that a model has earned.

Notation: K voters, the best first; P prompts; r_kp the reward of voter k on prompt p, r_0p the centre's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.probing.results import Candidate, ProbeResults
from es_lightning.landscape.scans.scan import mean_and_error

Row = dict[str, Any]


@dataclass(frozen=True)
class Replies:
    """What one model says to P prompts, decoded greedily.

    Args:
        texts: its completions.
        rewards: what they earn.
    """

    texts: tuple[str, ...]
    rewards: tuple[float, ...]


def best_candidates(results: ProbeResults, top: int, sigma: float | None = None) -> list[Candidate]:
    """Return the candidates of a probe that earned most on its prompts, the best first.

    Of candidates that earned the same, the first in the table comes first.

    Args:
        results: of a probe that has ended.
        top: how many.
        sigma: of one noise scale alone; None takes those of all.

    Raises:
        UsageError: the probe has no such sigma, or too few candidates.
    """
    if sigma is not None and sigma not in results.sigmas:
        known = ", ".join(f"{each:g}" for each in results.sigmas)
        raise UsageError(f"--sigma is {sigma:g}, and the probe has {known}: take one of these.")
    numbers = considered(results, sigma)
    if not 1 <= top <= len(numbers):
        at = "" if sigma is None else f" at sigma {sigma:g}"
        raise UsageError(
            f"--top is {top}, and the probe in {results.folder} has {len(numbers)} candidates{at}: give 1 to "
            f"{len(numbers)}."
        )
    rewards = results.table["reward"].to_numpy()[numbers]
    return [results.candidate(int(numbers[place])) for place in np.argsort(-rewards, kind="stable")[:top]]


def considered(results: ProbeResults, sigma: float | None) -> npt.NDArray[np.intp]:
    """Return the numbers of the candidates of a sigma, or of all."""
    sigmas = results.table["sigma"].to_numpy()
    return np.flatnonzero(sigmas == sigma) if sigma is not None else np.arange(len(sigmas))


def elected(answers: Sequence[str | None]) -> int:
    """Return which voter's completion stands for the vote.

    Every voter that gives an answer has one vote. The answer with the most wins; of several with as many, the
    one whose first voter ranks best. The first voter that gave it speaks for it. If no voter gives an
    answer, the first one speaks.

    Args:
        answers: of each voter, the best first; None where it gives none.

    Example:
        >>> elected(["7", "12", None, "12"])
        1
    """
    votes = Counter(answer for answer in answers if answer is not None)
    # The first of several largest: a Counter keeps the order in which answers came.
    return answers.index(max(votes, key=votes.__getitem__)) if votes else 0


def agreement(answers: Sequence[str | None]) -> float:
    """Return the share of voters that gave the answer that won; 0 if nobody gave one."""
    winner = answers[elected(answers)]
    return 0.0 if winner is None else answers.count(winner) / len(answers)


def vote_rows(centre: Sequence[float], rewards: Array, answers: Sequence[Sequence[str | None]]) -> list[Row]:
    """Compare the centre with the best voter and with the best 2, 3, ... K of them.

    Standard errors are over prompts, and paired: sd_p(d_p) / sqrt(P) of the differences d_p on each prompt.
    The mean of k models is what one of them, drawn at random, earns.

    Args:
        centre: r_0p, P of them.
        rewards: r_kp, float64 [K, P].
        answers: of each voter, of each prompt.

    Returns:
        K + 1 rows, the first one the centre's. Their keys: ``models`` in words, ``k``; ``vote`` and ``mean``,
        the reward of the vote and the mean of the k models, with ``_change`` and ``_change_se`` against the
        centre; ``over_best`` and ``over_best_se``, the vote against the best voter; ``agreement``, the mean
        share of voters behind the winner; ``rollouts_per_prompt``, what an answer costs.

    Raises:
        UsageError: there are fewer than two prompts.
    """
    zero = np.asarray(centre, dtype=np.float64)
    if len(zero) < 2:
        raise UsageError("a vote on one held-out prompt has no standard error: take at least 2.")
    rows = [_row("centre", 0, zero, zero, zero, zero) | {"agreement": nan, "rollouts_per_prompt": 1}]
    for k in range(1, len(rewards) + 1):
        ballots = list(zip(*answers[:k], strict=True))
        vote = np.array([rewards[elected(ballot), prompt] for prompt, ballot in enumerate(ballots)])
        row = _row("best single" if k == 1 else f"top {k}", k, vote, rewards[:k].mean(0), zero, rewards[0])
        agreed = float(np.mean([agreement(ballot) for ballot in ballots]))
        rows.append(row | {"agreement": agreed, "rollouts_per_prompt": k})
    return rows


def _row(models: str, k: int, vote: Array, mean: Array, centre: Array, best: Array) -> Row:
    """Rewards by prompt, [P] each, as means and paired differences."""
    row: Row = {"models": models, "k": k}
    for name, values in (("vote", vote), ("mean", mean)):
        change, error = mean_and_error(values - centre)
        row[name] = float(values.mean())
        row |= {f"{name}_change": float(change), f"{name}_change_se": float(error)}
    over, error = mean_and_error(vote - best)
    return row | {"over_best": float(over) if k else nan, "over_best_se": float(error) if k else nan}
