"""Runs of arms on tasks: what is missing is run, what was stopped goes on, what has ended is kept."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger("results")

HERE = Path(os.path.relpath(Path(__file__).parent))  # so that commands are as they are typed
BASELINES = ("grpo", "dr_grpo")
FILES = ("config.yaml", "journal.jsonl", "updates.jsonl", "evaluations.jsonl")
ANALYSIS = ("analysis.csv", "analysis.json")
MEASURED = "analysis.jsonl"


@dataclass(frozen=True)
class Suite:
    """Tasks and arms that have their configs in some folders.

    Args:
        configs: folders with tasks/TASK.yaml, arms/ARM.yaml and arms/ARM-TASK.yaml; the later ones win.
        work: where runs work.
        kept: where the files of those that have ended are copied.
        analysed: seeds of the arms whose final models are measured beside their base, by arm.
        forgetting: config of that measurement.
        overrides: more arguments of every fit and of every baseline, by ``fit`` and ``baseline``.
    """

    configs: Sequence[Path]
    work: Path
    kept: Path
    analysed: Mapping[str, Iterable[int]] = field(default_factory=dict)
    forgetting: Path | None = None
    overrides: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def files(self, *names: str) -> list[str]:
        """Return the options for those config files that exist."""
        files = [folder / f"{name}.yaml" for name in names for folder in self.configs]
        return [word for file in files if file.exists() for word in ("-c", str(file))]


@dataclass(frozen=True)
class Run:
    """One run of an arm on a task.

    Args:
        suite: where its configs are.
        task: a file of tasks/.
        arm: a file of arms/.
        seed: of the run.
    """

    suite: Suite
    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folders."""
        return f"{self.task}-{self.arm}-{self.seed}"

    @property
    def folder(self) -> Path:
        """Where it works."""
        return self.suite.work / self.name

    @property
    def kept(self) -> Path:
        """Where its files are kept."""
        return self.suite.kept / self.name

    @property
    def trained(self) -> bool:
        """Whether the files of the training are kept."""
        return (self.kept / "summary.json").exists()

    @property
    def measured(self) -> bool:
        """Whether its final model was measured beside its base."""
        return (self.kept / ANALYSIS[-1]).exists()

    @property
    def analysed(self) -> bool:
        """Whether nothing is left to be measured beside the base."""
        return self.measured or self.seed not in self.suite.analysed.get(self.arm, ())

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.trained and self.analysed

    def training(self) -> list[str]:
        """Return the arguments of es-lightning; those that go on with it if it was stopped."""
        files = self.suite.files(f"tasks/{self.task}", f"arms/{self.arm}", f"arms/{self.arm}-{self.task}")
        if self.arm in BASELINES:
            seed = ["--seed_everything", str(self.seed)]
            begun = ["--overwrite", "true"] if self.folder.exists() else []
            more = [*self.suite.overrides.get("baseline", ()), *begun]
            return ["baseline", *files, *seed, "--output", str(self.folder), *more]
        seed = ["--seed_everything", str(self.seed), "--trainer.default_root_dir", str(self.folder)]
        begun = ["--ckpt_path", "last"] if (self.folder / "journal.jsonl").exists() else []
        return ["fit", *files, *seed, *self.suite.overrides.get("fit", ()), *begun]

    def analysis(self) -> list[str]:
        """Return the arguments that measure its final model beside its base.

        The base is measured once per task: analyses of further runs take that from the first.
        """
        files = [*self.suite.files(f"tasks/{self.task}"), "-c", str(self.suite.forgetting)]
        others = sorted(self.suite.work.glob(f"{self.task}-*"))
        ended = [each for each in others if all((each / name).exists() for name in (MEASURED, ANALYSIS[-1]))]
        known = ["--base_from", str(ended[0])] if ended else []
        return ["analyze", str(self.folder), *files, "--output", str(self.folder), *known]

    def commands(self) -> list[list[str]]:
        """Return what is left to do."""
        training = [] if self.trained else [self.training()]
        return training if self.analysed else [*training, self.analysis()]

    def complete(self) -> None:
        """Run it to its end, and keep its files.

        Raises:
            CalledProcessError: it failed; its own last lines say why.
        """
        if not self.trained:
            run_command(self.training())
            keep(self.folder, self.kept, *FILES, "summary.json")
        if not self.analysed:
            if not self.folder.exists():  # of a fresh clone; a journal makes the model again
                shutil.copytree(self.kept, self.folder)
            run_command(self.analysis())
            keep(self.folder, self.kept, *ANALYSIS)


def complete(runs: Iterable[Run], only_list: bool) -> None:
    """Run what is missing, or say what that would be."""
    for run in runs:
        if run.ended:
            log.info("%-32s ended", run.name)
        elif only_list:
            for command in run.commands():
                log.info("%-32s %s", run.name, shlex.join(["es-lightning", *command]))
        else:
            run.complete()


def keep(folder: Path, kept: Path, *files: str) -> None:
    """Copy those files of a run that it has; the last one is the sign that all are there."""
    for file in files:
        if (folder / file).exists():
            (kept / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, kept / file)


def run_command(arguments: Sequence[str]) -> None:
    """Run es-lightning.

    Raises:
        CalledProcessError: it failed; its own last lines say why.
    """
    subprocess.run([sys.executable, "-m", "es_lightning", *arguments], check=True)
