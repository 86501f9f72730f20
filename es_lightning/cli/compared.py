"""What ``compare`` reads, compares and writes."""

from __future__ import annotations

import glob
import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from es_lightning.analysis.comparison.comparing import compare
from es_lightning.analysis.comparison.folder import read_run
from es_lightning.analysis.comparison.runs import Run
from es_lightning.errors import UsageError
from es_lightning.reports.comparison_files import write
from es_lightning.reports.comparison_page import flags, lines
from es_lightning.system.folders import check_writable

log = logging.getLogger(__name__)


def compared(options: Namespace) -> None:
    """Compare runs, and write the report into a folder.

    Args:
        options: of the command.

    Raises:
        UsageError: the runs cannot be compared.
    """
    check_writable(options.output, "--output")
    if options.experiment is None:
        runs, labels = runs_of_folders(options.runs)
    else:
        from es_lightning.cli.compared_experiment import runs_of_experiment

        runs = runs_of_experiment(options.experiment, options.task)
        labels = [None] * len(runs)
    found = compare(runs, labels, options.kl_limit)
    write(found, options.output, options.kl_limit)
    for line in lines(found):
        log.info("%s", line)
    for flag in flags(found):
        log.warning("Suspected reward hacking in %s: %s.", flag.run, "; ".join(flag.signs))
    log.info("%s holds the report.", options.output / "report.html")


def runs_of_folders(words: Sequence[str]) -> tuple[list[Run], list[str | None]]:
    """Read the runs that the command line names.

    Args:
        words: folders, or a label, ``=`` and a folder; a folder may be a pattern.

    Returns:
        The runs, each with its label if it has one.

    Raises:
        UsageError: there is no such folder, one is named twice, or one cannot be read.
    """
    folders: dict[Path, tuple[Path, str | None]] = {}
    for word in words:
        label, place = _divided(word)
        for folder in matching(place):
            if folder.resolve() in folders:
                raise UsageError(f"{folder} is given twice: name each run once.")
            folders[folder.resolve()] = folder, label
    return [read_run(folder) for folder, _ in folders.values()], [label for _, label in folders.values()]


def _divided(word: str) -> tuple[str | None, str]:
    """Divide ``LABEL=FOLDER``, unless there is a folder of that whole name."""
    label, equals, place = word.partition("=")
    if not equals or Path(word).exists():
        return None, word
    if not label.strip() or not place:
        raise UsageError(f"{word} is no LABEL=FOLDER: write for example ours=runs/demo.")
    return label.strip(), place


def matching(place: str) -> list[Path]:
    """Return the folder, or those that a pattern matches, which no shell has replaced after a label."""
    if Path(place).exists() or not glob.has_magic(place):
        return [Path(place)]
    found = [Path(each) for each in sorted(glob.glob(place)) if Path(each).is_dir()]
    if not found:
        raise UsageError(f"no folder matches {place}: give folders of runs.")
    return found
