"""Degenerate improving updates: do improving members share what makes them improve? Two tests with power.

arXiv 2602.00170 has the definition alone: z = U^T eps decides whether a member
improves, U the few directions with slope and curvature. A split-half projection of members on an estimated
direction cannot see it: its expected z is rho^2 sqrt(M_A M_B / D), 0.01 for 240 members in 135 million
dimensions.

(a) ``shared_direction``: the mean of the K improving members, stretched to one member's norm. If what they
    share is linear, it earns sqrt(K) times what one of them earns on average above all members: for normal
    changes about sqrt(2 / pi) rho sqrt(K) standard deviations of a member's reward, with rho the correlation
    of the members' changes on both halves of the prompts.
(b) ``explained``: how much of the members' changes the coordinates eps^T U explain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import numpy.typing as npt

from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array

CONTROLS = 20
"""At least so many, since p can be no less than 1 / (controls + 1)."""
PERMUTATIONS = 999


@dataclass(frozen=True)
class Explained:
    """What coordinates explain of the members' changes.

    Args:
        share: R^2 of the regression.
        adjusted: R^2 less what as many random coordinates would explain, 1 - (1 - R^2)(M - 1)/(M - k - 1).
        p_value: how often permuted changes give as much.
        null: R^2 of permuted changes: mean and 95th percentile.
        coefficients: change of the reward per unit of each coordinate, [k].
        errors: their standard errors, [k].
    """

    share: float
    adjusted: float
    p_value: float
    null: tuple[float, float]
    coefficients: Array
    errors: Array


def explained(changes: Array, coordinates: Array, seed: int = 0) -> Explained:
    """Regress changes of the reward on coordinates, with a permutation null for R^2.

    Under the null hypothesis the noise of a member and its change have nothing to do with one another, and
    members are drawn alike, so that any order of the changes is as likely: the p-value is exact.

    Of antithetic pairs give the odd parts with eps^T U, or the even parts with (eps^T U)^2, one row per
    pair: the two members of a pair are not independent.

    Args:
        changes: [M].
        coordinates: eps^T U, [M, k].
        seed: seed of the permutations.

    Raises:
        UsageError: there are too few members for so many coordinates, or all changes are equal.
    """
    members, count = coordinates.shape
    if members < count + 3:
        raise UsageError(
            f"{members} members cannot tell {count} coordinates apart: measure at least {count + 3}, or take "
            "fewer Hessian vectors."
        )
    centred = changes - changes.mean()
    total = float(centred @ centred)
    if total <= 1e-24 * float(changes @ changes) or total == 0:
        raise UsageError("all members changed the reward alike: there is nothing to explain.")
    design = coordinates - coordinates.mean(axis=0)
    basis, sizes, turn = np.linalg.svd(design, full_matrices=False)
    kept = sizes > 1e-10 * sizes.max()
    basis, sizes, turn = basis[:, kept], sizes[kept], turn[kept]
    share = float(((basis.T @ centred) ** 2).sum() / total)
    orders = np.random.default_rng(seed).permuted(np.tile(centred, (PERMUTATIONS, 1)), axis=1)
    null = ((orders @ basis) ** 2).sum(axis=1) / total
    rank = len(sizes)
    variance = (1 - share) * total / (members - rank - 1)
    return Explained(
        share=share,
        adjusted=1 - (1 - share) * (members - 1) / (members - rank - 1),
        p_value=float((1 + (null >= share * (1 - 1e-12)).sum()) / (1 + PERMUTATIONS)),
        null=(float(null.mean()), float(np.quantile(null, 0.95))),
        coefficients=np.asarray(turn.T @ (basis.T @ centred / sizes)),
        errors=np.sqrt(variance * ((turn / sizes[:, None]) ** 2).sum(axis=0)),
    )


@dataclass(frozen=True)
class SharedDirection:
    """The reward along the mean of the improving members, and along means of members that permuted rewards
    chose.

    Args:
        improving: number K of members that improve on the prompts that choose.
        gain: change of the reward at the improving members' mean direction, on the other prompts.
        controls: changes at the controls' directions there, [C].
        member_deviation: standard deviation of a member's change there; 0 where no member changes anything,
            as may be with few prompts that are right or wrong.
        expected: what the gain over the controls would be if changes were linear in the noise, from those of
            the improving members on the prompts that score.
    """

    improving: int
    gain: float
    controls: Array
    member_deviation: float
    expected: float

    @property
    def p_value(self) -> float:
        """How often a control gains as much, at least 1 / (C + 1)."""
        return float((1 + (self.controls >= self.gain).sum()) / (1 + len(self.controls)))

    @property
    def deviations(self) -> float:
        """The gain over the controls' mean, in standard deviations of a member; nan where these are 0."""
        if not self.member_deviation:
            return nan
        return float((self.gain - self.controls.mean()) / self.member_deviation)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of ``deviations`` by the spread of the controls, Student's t; nan without one."""
        from scipy.stats import t

        count, spread = len(self.controls), float(self.controls.std(ddof=1))
        if not (self.member_deviation and spread):
            return nan, nan
        error = spread * sqrt(1 + 1 / count) / self.member_deviation
        half = float(t.ppf(0.975, count - 1)) * error
        return self.deviations - half, self.deviations + half


def mean_direction(chosen: npt.NDArray[np.bool_], signs: Array, sigma: float, pairs: bool = False) -> Array:
    """Return the weights over members of the mean of chosen ones, stretched to one member's norm, [M].

    The mean of K nearly orthogonal vectors sigma eps has norm sigma sqrt(D / K), so each weight is
    sign * sigma / sqrt(K). Of two members of a pair that are both chosen the noise cancels, and K is less.

    Args:
        chosen: which members, [M], not only whole pairs.
        signs: +1 or -1 of each, [M].
        sigma: noise scale.
        pairs: whether members 2k and 2k + 1 have the same noise with opposite signs.
    """
    return np.where(chosen, signs, 0.0) * sigma / sqrt(_directions(chosen, pairs))


def _directions(chosen: npt.NDArray[np.bool_], pairs: bool) -> int:
    """Return how many different directions are left of the chosen members."""
    return int((chosen[::2] != chosen[1::2]).sum() if pairs else chosen.sum())


def permuted(
    chosen: npt.NDArray[np.bool_], pairs: bool, generator: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Deal the choice out anew among members, which are alike if it tells nothing.

    Pairs stay together and may be turned around: how often both members were chosen, or one of them, decides
    the norm of the mean, and has to be the same in every control.

    Args:
        chosen: which members, [M].
        pairs: whether members 2k and 2k + 1 have the same noise with opposite signs.
        generator: of the order.
    """
    if not pairs:
        return generator.permutation(chosen)
    both = generator.permutation(chosen.reshape(-1, 2))
    turned = generator.random(len(both)) < 0.5
    return np.where(turned[:, None], both[:, ::-1], both).ravel()


def shared_direction(
    on_choice: Array,
    on_score: Array,
    signs: Array,
    sigma: float,
    reward: Callable[[Array], float],
    controls: int = CONTROLS,
    seed: int = 0,
    pairs: bool = False,
) -> SharedDirection:
    """Test (a): choose the improving members on some prompts, score their mean direction on others.

    The controls are the same seeds with the choosing changes permuted among members, or among pairs and
    within them: as many members, of the same norm, whose choice tells nothing. Under the null hypothesis all
    of them are alike, so the p-value is exact.

    Args:
        on_choice: members' changes of the reward on the prompts that choose, [M].
        on_score: the same on the prompts that score, [M].
        signs: +1 or -1 of each member, [M].
        sigma: noise scale of the members.
        reward: from weights over the M seeds to the change of the reward on the prompts that score.
        controls: how many.
        seed: seed of the permutations.
        pairs: whether members 2k and 2k + 1 have the same noise with opposite signs.

    Raises:
        UsageError: there are too few controls, or fewer than 2 members improve whose noise does not cancel,
            or all do.
    """
    if controls < CONTROLS:
        raise UsageError(f"{controls} controls were asked for: give at least {CONTROLS}, for p below 0.05.")
    improves = on_choice > 0
    count, left = int(improves.sum()), _directions(improves, pairs)
    if left < 2 or count == len(improves):
        opposite = f", {left} of them without their opposite" if pairs else ""
        raise UsageError(
            f"{count} of {len(improves)} members improve on the prompts that choose{opposite}: a shared "
            "direction needs at least 2 that do, and one that does not. Measure more members, or another "
            "sigma."
        )
    generator = np.random.default_rng(seed)
    drawn = [permuted(improves, pairs, generator) for _ in range(controls)]
    gains = [reward(mean_direction(each, signs, sigma, pairs)) for each in (improves, *drawn)]
    return SharedDirection(
        improving=count,
        gain=gains[0],
        controls=np.array(gains[1:]),
        member_deviation=float(on_score.std(ddof=1)),
        expected=_if_linear(on_score, improves, pairs),
    )


def _if_linear(changes: Array, chosen: npt.NDArray[np.bool_], pairs: bool) -> float:
    """Return what the mean direction of chosen members earns above any other if changes are linear.

    A linear change is that of the direction, so it is the sum of the members' over sqrt(K). Of pairs the odd
    parts are linear; of single members the mean of all takes off what is even.

    Args:
        changes: of the members, [M], on prompts that did not choose.
        chosen: which members, [M].
        pairs: whether members 2k and 2k + 1 have the same noise with opposite signs.
    """
    if pairs:
        net = chosen[::2].astype(np.float64) - chosen[1::2]
        return float(net @ (changes[::2] - changes[1::2]) / 2 / sqrt(_directions(chosen, pairs)))
    return float(sqrt(chosen.sum()) * (changes[chosen].mean() - changes.mean()))
