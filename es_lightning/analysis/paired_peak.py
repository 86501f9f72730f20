"""Is the centre worse than an earlier one? A sequential test that compares centres prompt by prompt.

Every validation asks the same prompts. Each half of them chooses the best stretch of centres so far for the
other half, which had no say in the choice and tests whether the latest stretch is worse. So choosing costs
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from es_lightning.analysis.peak import PeakVerdict, check_settings, windows

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

LEAST_PROMPTS = 16  # with fewer, signs agree by chance too often for a verdict in good time
ASSIGNMENTS = 10_000  # random assignments of signs to the prompts
MOST_SIGNS = 2**24  # in memory, float32
HALVES = 0.6  # of the rate is spent: choices of two halves that agree make their tests agree as well
PACE = 8  # tests after which half of the false-alarm rate is spent
SEED = 20_260_200_170  # of halves and signs, so that verdicts are the same everywhere
DECIMALS = 4  # of a statistic; rewards of 0 and 1 make ties, which must not depend on how sums are rounded


class PairedPeakTest:
    """Tests after every validation whether the centre has become worse than it was; high values are good.

    The statistic of a look is sum_p d_p / sqrt(sum_p d_p^2), where d_p is how much less the latest stretch
    earns on prompt p than the stretch that the other half of the prompts found best, minus ``min_drop``; the
    largest over all lengths of stretches counts. It is Student's t in another scale (Efron 1969, J. Am. Stat.
    Assoc. 64).

    Null hypothesis: no centre is worse than an earlier one on the distribution that the prompts are a sample
    of. Rewards on single prompts may wander, as long as gains and losses balance. Then a prompt's differences
    are as likely as their negatives, so critical values come from giving all of a prompt's differences, over
    the whole run, a random sign. For one look and rewards of 0 and 1 that is McNemar's exact test. The
    assignments of signs that have raised an alarm before are out, so dependent looks cost little.

    The rate is spent over the looks, the share k / (k + 8) of it up to look k, whatever the length of the
    run (Lan and DeMets 1983, Biometrika 70). Each half's test is exact given the other half's choice. Their
    sum varies a little more than signs alone do, since both halves choose the same stretch now and then; so
    0.6 of the rate is spent, which keeps it in simulation (``benchmarks/early_peak.py --tables prompts``).

    Args:
        prompts: number of validation prompts P, at least 2.
        false_alarm_rate: chance of any alarm in a run without end whose centre never becomes worse.
        smallest: length of the shortest stretch in points, odd, at least 3.
        min_points: points before which there is no alarm.
        min_drop: mean fall that is not worth an alarm, in units of the values.

    Raises:
        UsageError: a value is outside its range.
    """

    def __init__(
        self,
        prompts: int,
        false_alarm_rate: float = 0.05,
        smallest: int = 3,
        min_points: int = 9,
        min_drop: float = 0.0,
    ) -> None:
        check_settings(false_alarm_rate, smallest, min_points, min_drop)
        self.smallest, self.min_points, self.min_drop = smallest, min_points, min_drop
        self._sums = [np.zeros(prompts)]  # of each prompt's values up to each point
        generator = np.random.default_rng(SEED)
        order = generator.permutation(prompts)
        first, second = np.sort(order[: prompts // 2]), np.sort(order[prompts // 2 :])
        self._halves = ((first, second), (second, first))  # who chooses, who tests
        self._signs = _Signs(generator, prompts, HALVES * false_alarm_rate)

    @property
    def points(self) -> int:
        """Points so far."""
        return len(self._sums) - 1

    def add(self, values: Sequence[float]) -> PeakVerdict:
        """Add the next centre's values, [P], and judge the run so far.

        Args:
            values: finite, one per prompt, in the same order every time.

        Returns:
            The verdict. Its peak is the stretch that is best on all prompts; level and latest are means over
            all prompts.
        """
        self._sums.append(self._sums[-1] + np.asarray(values, dtype=np.float64))
        sums, points = np.stack(self._sums), self.points
        lengths = windows(points, self.smallest) or [min(points, self.smallest)]
        columns = np.stack([_normalised(self._falls(_means(sums, each))) for each in lengths], axis=1)
        statistics = np.round(columns.sum(axis=0), DECIMALS)
        statistic, window = float(statistics.max()), lengths[int(statistics.argmax())]
        look = points - self.min_points + 1
        critical = self._signs.critical(look, columns, statistic) if look > 0 else math.inf
        stretches = _means(sums, window).mean(axis=1)
        best = _best(stretches, window)
        level, latest = float(stretches[best]), float(stretches[-1])
        middle = min(best + window // 2, points - 1)
        return PeakVerdict(statistic > critical, statistic, critical, window, middle, level, latest)

    def _falls(self, stretches: Array) -> Array:
        """Subtract each prompt's latest stretch from the one that the other half of the prompts found best.

        Args:
            stretches: mean values of each prompt, [stretches, P].

        Returns:
            Falls minus ``min_drop``, [P].
        """
        falls = np.empty(stretches.shape[1])
        window = self.points - len(stretches) + 1
        for chooser, tester in self._halves:
            best = _best(stretches[:, chooser].mean(axis=1), window)
            falls[tester] = stretches[best, tester] - stretches[-1, tester]
        return falls - self.min_drop


class _Signs:
    """Random signs of n prompts, and which assignments of them have raised no alarm so far.

    Args:
        generator: draws the signs.
        prompts: n.
        rate: chance of any alarm, over all looks.
    """

    def __init__(self, generator: np.random.Generator, prompts: int, rate: float) -> None:
        count = min(ASSIGNMENTS, MOST_SIGNS // prompts)
        self.signs = np.where(generator.random((count, prompts)) < 0.5, np.float32(-1), np.float32(1))
        self.inside = np.ones(count, dtype=bool)
        self.rate = rate

    def critical(self, look: int, columns: Array, statistic: float) -> float:
        """Find the value that a statistic must exceed, and put out the assignments that exceed it.

        The signs as they were observed count as one more assignment, which keeps the rate exactly (Lehmann
        and Romano 2005, Testing Statistical Hypotheses, 15.2).

        Args:
            look: number of this look, from 1.
            columns: float64 [n, K], normalised differences for K lengths of stretches.
            statistic: largest sum of a column.
        """
        spent = self.rate * look / (look + PACE)
        budget = math.floor(spent * (len(self.signs) + 1)) - int((~self.inside).sum())
        if budget < 1:
            return math.inf
        flipped = (self.signs[self.inside] @ columns.astype(np.float32)).max(axis=1)
        flipped = np.round(flipped.astype(np.float64), DECIMALS)
        values = np.append(flipped, statistic)
        critical = float(np.partition(values, -budget - 1)[-budget - 1])  # budget of them may exceed it
        self.inside[self.inside] = flipped <= critical
        return critical


def _best(stretches: Array, window: int) -> int:
    """Return the index of the highest stretch among those that end before the latest one begins."""
    return int(np.argmax(np.round(stretches[: max(len(stretches) - window, 1)], 9)))


def _means(sums: Array, window: int) -> Array:
    """Average each ``window`` points, from running sums [n + 1, ...]: [n - window + 1, ...]."""
    return np.asarray((sums[window:] - sums[:-window]) / window)


def _normalised(falls: Array) -> Array:
    """Divide differences [n] by their Euclidean norm; zeros if they are no more than rounding."""
    size = float(np.linalg.norm(falls))
    return falls / size if size > 1e-9 else np.zeros_like(falls)
