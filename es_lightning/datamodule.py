"""Batches of prompts: in a generation, every rank and every member sees the same ones."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset, Sampler

from es_lightning.errors import UsageError
from es_lightning.grading.scorer import Grading, Scorer
from es_lightning.records import Prompt
from es_lightning.task import Task
from es_lightning.tasks.log_likelihood import LogLikelihood

log = logging.getLogger(__name__)
Objective = Literal["reward", "log_likelihood"]
Encoder = Callable[[list[Prompt]], list[Prompt]]


class TaskDataModule(pl.LightningDataModule):
    """Batches of a task's problems; a training batch is a pure function of the generation's index.

    Args:
        task: where problems and rewards come from.
        prompts_per_generation: number P of training prompts in a generation; None takes the whole training
            split each time.
        val_prompts: number of validation problems to use, from the first on; None takes all.
        test_prompts: number of test problems to use, from the first on; None takes all.
        seed: seed of the order in which training prompts are drawn.
        grading: how completions are graded; None takes the defaults.
        drop_long_prompts: leave out problems that are longer than the model can take with ``max_tokens``,
            instead of refusing them.
        objective: what training makes larger: ``reward``, the task's own; or ``log_likelihood``, that of the
            task's right answers, in nats per token (see ``es_lightning.tasks.LogLikelihood``). Validation
            and test are the task's own either way.
        test_with_val: evaluate the test problems along with every validation of a fit or a baseline, on the
            same model, so that runs have a test reward at equal cost. Nothing is chosen by it.
        draw: which training prompts a generation gets, if it does not get all: ``passes`` goes through the
            shuffled training split, again and again; ``independent`` draws anew in every generation, among
            all; ``fixed`` gives every generation the same ones.

    Raises:
        UsageError: a number is below 1, a split is empty, it has fewer prompts than one generation needs, or
            there is no such objective.
    """

    def __init__(
        self,
        task: Task,
        prompts_per_generation: int | None = None,
        val_prompts: int | None = None,
        test_prompts: int | None = None,
        seed: int = 0,
        grading: Grading | None = None,
        drop_long_prompts: bool = False,
        objective: Objective = "reward",
        test_with_val: bool = False,
        draw: Literal["passes", "independent", "fixed"] = "passes",
    ) -> None:
        super().__init__()
        sizes = {"prompts_per_generation": prompts_per_generation, "val_prompts": val_prompts}
        for option, size in (sizes | {"test_prompts": test_prompts}).items():
            if size is not None and size < 1:
                raise UsageError(f"data.{option} is {size}: give at least 1, or null for all.")
        if objective not in get_args(Objective):
            raise UsageError(f"data.objective is {objective!r}: give reward or log_likelihood.")
        self.task, self.objective = task, objective
        self._trained = LogLikelihood(task) if objective == "log_likelihood" else task
        self.scorer = Scorer(self._trained, grading)
        self.prompts_per_generation = prompts_per_generation
        self.limits = {"train": None, "val": val_prompts, "test": test_prompts}
        if draw not in ("passes", "independent", "fixed"):
            raise UsageError(f"data.draw is {draw}: give passes, independent or fixed.")
        self.draw, self.seed, self.drop_long_prompts = draw, seed, drop_long_prompts
        self.test_with_val = test_with_val
        self.dropped: dict[str, int] = {}
        """By split, how many problems were left out because they are too long."""
        self._prompts: dict[str, list[Prompt]] = {}

    def prompts(self, split: str) -> list[Prompt]:
        """Return the problems of a split that this run uses.

        Raises:
            UsageError: there are none.
        """
        if split not in self._prompts:
            problems = self._trained.problems(split)[: self.limits[split]]
            if not problems:
                raise UsageError(
                    f"task {self.task.name} has no problems in split {split!r}: check its data options."
                )
            self._prompts[split] = problems
        return self._prompts[split]

    def splits_for(self, stage: str) -> list[str]:
        """Return the splits that a stage draws prompts from.

        Raises:
            UsageError: a split that the stage cannot do without has no problems.
        """
        if stage in {"validate", "test"}:
            needed = {"validate": ["val"], "test": ["test"]}[stage]
        else:
            validates = self.trainer is None or bool(self.trainer.limit_val_batches)
            needed = ["train", "val"] if validates else ["train"]
            if self.test_with_val:
                self._require_validations(validates)
                needed.append("test")
        for split in needed:
            self.prompts(split)
        optional = ["val", "test"] if stage == "fit" else []  # callbacks may evaluate them during a fit
        return needed + [split for split in optional if split not in needed and self.has(split)]

    def _require_validations(self, validates: bool) -> None:
        if not validates:
            raise UsageError(
                "data.test_with_val asks for a test at every validation, and trainer.limit_val_batches is 0: "
                "leave one of them out."
            )

    def teardown(self, stage: str) -> None:
        """End the grading processes."""
        self.scorer.close()

    def on_exception(self, exception: BaseException) -> None:
        """End the grading processes of a run that fails, too."""
        self.scorer.close()

    def has(self, split: str) -> bool:
        """Tell whether the task has problems in a split."""
        return bool(self.task.problems(split))

    def encode(self, split: str, encoder: Encoder) -> list[Prompt]:
        """Encode the prompts of a split, keep them with their token ids, and return them.

        The encoder may leave some out, which are counted in ``dropped``.
        """
        all_of_them = self.prompts(split)
        kept = self._prompts[split] = encoder(all_of_them)
        if len(kept) < len(all_of_them):
            self.dropped[split] = len(all_of_them) - len(kept)
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                remaining = {prompt.id for prompt in kept}
                first = next(prompt.id for prompt in all_of_them if prompt.id not in remaining)
                log.warning(
                    "%d of %d problems of split %s are too long for the model and left out, %s first "
                    "(data.drop_long_prompts).",
                    self.dropped[split],
                    len(all_of_them),
                    split,
                    first,
                )
        return kept

    @property
    def batch_size(self) -> int:
        """Number of training prompts in a generation.

        Raises:
            UsageError: the training split has fewer.
        """
        available = len(self.prompts("train"))
        wanted = self.prompts_per_generation or available
        if wanted > available:
            raise UsageError(
                f"data.prompts_per_generation is {wanted}, but task {self.task.name} has {available} "
                "training problems: lower it, or give null for all."
            )
        return wanted

    def batch(self, generation: int) -> list[Prompt]:
        """Return the prompts of one generation: all of the training split, or what ``draw`` says.

        Raises:
            UsageError: a task of a mixture has too few problems for its share.
        """
        prompts = self.prompts("train")
        if self.batch_size == len(prompts):
            return prompts
        groups: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            groups.setdefault(prompt.group, []).append(prompt)
        shares = _shares(self.task.group_weights() or {"": 1.0}, groups, self.batch_size)
        return [
            prompt
            for group, share in shares.items()
            for prompt in self._drawn(groups[group], share, generation, f"{self.seed} {group}".strip())
        ]

    def _drawn(self, prompts: list[Prompt], size: int, generation: int, seed: str) -> list[Prompt]:
        """Return a generation's share of one task's problems."""
        if size > len(prompts):
            raise UsageError(
                f"data.prompts_per_generation is {self.batch_size}, of which {size} are the share of "
                f"{prompts[0].group}, but that task has {len(prompts)} training problems: lower "
                "prompts_per_generation or the task's weight."
            )
        if self.draw == "independent":
            return random.Random(f"{seed} generation {generation}").sample(prompts, size)
        generation = 0 if self.draw == "fixed" else generation
        per_pass = len(prompts) // size
        order = list(range(len(prompts)))
        random.Random(f"{seed} pass {generation // per_pass}").shuffle(order)
        first = generation % per_pass * size
        return [prompts[i] for i in order[first : first + size]]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch as it is: prompts are plain Python, and there is nothing to move."""
        return batch

    def train_dataloader(self) -> DataLoader[list[Prompt]]:
        """Return one batch per generation, from the trainer's present generation to its last."""
        steps = self.trainer.max_steps if self.trainer is not None else -1
        generations = _Generations(
            self, steps if steps > 0 else len(self.prompts("train")) // self.batch_size
        )
        return DataLoader(generations, batch_size=None, sampler=_FromPresent(self, len(generations)))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the whole validation split as one batch: the engine batches better than a loader."""
        return DataLoader([self.prompts("val")], batch_size=None)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the whole test split as one batch."""
        return DataLoader([self.prompts("test")], batch_size=None)  # type: ignore[arg-type]


def _shares(weights: Mapping[str, float], groups: Iterable[str], size: int) -> dict[str, int]:
    """Return how many of ``size`` prompts each group gets: by weight, largest remainder first, at least 1."""
    wanted = {group: weights[group] for group in groups}
    if len(wanted) > size:
        raise UsageError(
            f"data.prompts_per_generation is {size}, but the mixture has {len(wanted)} tasks: raise it."
        )
    exact = {group: size * weight / sum(wanted.values()) for group, weight in wanted.items()}
    shares = {group: max(1, int(share)) for group, share in exact.items()}
    while sum(shares.values()) != size:
        more = 1 if sum(shares.values()) < size else -1
        candidates = [group for group in shares if more > 0 or shares[group] > 1]
        group = max(candidates, key=lambda name: more * (exact[name] - shares[name]))
        shares[group] += more
    return shares


class _Generations(Dataset[list[Prompt]]):
    def __init__(self, data: TaskDataModule, count: int) -> None:
        self.data, self.count = data, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, generation: int) -> list[Prompt]:
        return self.data.batch(generation)


class _FromPresent(Sampler[int]):
    """Generation indices from the present one to the end of its epoch, which has ``count`` generations.

    So resuming needs no loader state, and the next epoch goes on where this one ends.
    """

    def __init__(self, data: TaskDataModule, count: int) -> None:
        self.data, self.count = data, count

    def __iter__(self) -> Iterator[int]:
        first = self.data.trainer.global_step if self.data.trainer is not None else 0
        return iter(range(first, first - first % self.count + self.count))

    def __len__(self) -> int:
        return self.count
