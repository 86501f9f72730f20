"""What ``es-lightning curvature`` and ``es-lightning degenerate`` measure: their sections of a config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from es_lightning.errors import UsageError
from es_lightning.landscape.curvature.curvature import LEAST
from es_lightning.landscape.curvature.degenerate import CONTROLS
from es_lightning.landscape.probing.probe import ProbeSettings
from es_lightning.records import Prompt


@dataclass(frozen=True)
class CurvatureSettings:
    """What a measurement of curvature evaluates.

    Args:
        sigmas: noise scales, in units of the weights.
        pairs: antithetic pairs K, the same at every sigma.
        prompts: training problems, the same for all pairs.
        pool_seed: which of the problems are taken.
        seed: of the pairs' noise.
        rewards: whether replies are generated and graded by the same members as well, to compare the task's
            reward with the log-likelihood of its right answers.
        likelihood: whether the log-likelihood of right answers is measured, which autograd knows as well.
            Otherwise it is the task's own reward alone, of tasks without right answers too, and ``products``
            and ``hessian`` do nothing.
        products: pairs whose true eps^T H eps is computed by autograd.
        hessian: Lanczos steps on true Hessian-vector products; 0 takes none.
        lanczos: Lanczos steps on the Hessian-vector products of evolution strategies; 0 takes none.
        seeds: common seeds N of those products, at each of two points per step.
        step: distance of these points from the centre, as a multiple of a member's.
        control: whether the same is done once more with permuted rewards.

    Raises:
        UsageError: a value is outside its range.
    """

    sigmas: Sequence[float] = (0.001, 0.002)
    pairs: int = 64
    prompts: int = 64
    pool_seed: int = 0
    seed: int = 1234
    rewards: bool = True
    likelihood: bool = True
    products: int = 8
    hessian: int = 20
    lanczos: int = 0
    seeds: int = 48
    step: float = 1.0
    control: bool = True

    def __post_init__(self) -> None:
        """Refuse what no measurement can do."""
        for name, least in (
            ("pairs", LEAST),
            ("prompts", 1),
            ("products", 0),
            ("hessian", 0),
            ("lanczos", 0),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"curvature.{name} is {getattr(self, name)}: give at least {least}.")
        if not (self.likelihood or self.rewards):
            raise UsageError(
                "curvature.likelihood and curvature.rewards are both false, so nothing would be measured: "
                "leave one of them out."
            )
        if not self.step > 0:
            raise UsageError(f"curvature.step is {self.step:g}: give a number above 0.")
        if self.lanczos and self.seeds <= max(self.lanczos, 2):
            raise UsageError(
                f"curvature.seeds is {self.seeds} for {self.lanczos} Lanczos steps: give more seeds than "
                "steps, at least 3, and more than twice the rank that you expect."
            )
        self.probe()

    def probe(self) -> ProbeSettings:
        """Return the probe that measures the pairs.

        Raises:
            UsageError: the sigmas or the prompts are none that can be probed.
        """
        with _named_curvature():
            return ProbeSettings(
                sigmas=self.sigmas,
                members=2 * self.pairs,
                batches=1,
                prompts=self.prompts,
                split="train",
                pool_seed=self.pool_seed,
                seed=self.seed,
                antithetic=True,
                largest=1,
            )

    def choose(self, problems: Sequence[Prompt]) -> list[Prompt]:
        """Return the problems that are measured on.

        Args:
            problems: all training problems.

        Raises:
            UsageError: there are fewer than ``prompts``.
        """
        with _named_curvature():
            return self.probe().choose(problems)


@contextmanager
def _named_curvature() -> Iterator[None]:
    """Let messages of the probe name the options of this section."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).replace("probe.", "curvature.")) from error


@dataclass(frozen=True)
class DegenerateSettings:
    """How the tests of degenerate improving updates are made.

    Args:
        sigmas: noise scales of the probe that are tested; None takes all.
        controls: directions of permuted rewards, at least 20.
        hessian: Lanczos steps on true Hessian-vector products, of which ``vectors`` are used; 0 takes the
            gradient alone.
        vectors: Hessian vectors in the regression.
        seed: of permutations and of the division of the prompts.

    Raises:
        UsageError: a value is outside its range.
    """

    sigmas: Sequence[float] | None = None
    controls: int = CONTROLS
    hessian: int = 20
    vectors: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no test can do."""
        if self.controls < CONTROLS:
            raise UsageError(
                f"degenerate.controls is {self.controls}: give at least {CONTROLS}, since p cannot be below "
                "1 / (controls + 1)."
            )
        for name in ("hessian", "vectors"):
            if getattr(self, name) < 0:
                raise UsageError(f"degenerate.{name} is {getattr(self, name)}: give 0 or more.")
