"""What the command ``vote`` does: choose candidates, let them reply, count, and write the table."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from es_lightning.baselines.vote import Row, best_candidates, considered, vote_rows
from es_lightning.baselines.voters import Voters, given_answers, held_out_prompts
from es_lightning.cli.opened import opened
from es_lightning.cli.run_loggers import loggers_for, logging_to
from es_lightning.landscape.probing.results import Candidate, ProbeResults
from es_lightning.reports.csv_file import write_csv
from es_lightning.reports.toy_table import show
from es_lightning.system.files import replacing
from es_lightning.system.folders import check_writable
from es_lightning.system.lock import hold
from es_lightning.tracking.artifacts import log_artifact

log = logging.getLogger(__name__)
TABLE, SUMMARY, REPLIES = "vote.csv", "vote.json", "replies.jsonl"
METRICS = ("vote", "vote_change", "mean", "agreement")
"""Columns that loggers get, by k: ``vote/vote_change``."""


def vote(options: Namespace, arguments: Sequence[str]) -> None:
    """Let the best candidates of a probe vote, or go on with it, and write the table.

    Args:
        options: of this command.
        arguments: options of ``fit``.
    """
    results = ProbeResults.read(options.probe)
    candidates = best_candidates(results, options.top, options.sigma)
    folder = options.output or options.probe / f"vote-{options.split}"
    check_writable(folder, "--output")
    with ExitStack() as until_end:
        parts = until_end.enter_context(opened(arguments))
        writes = parts.ranks.rank == 0
        if writes:
            until_end.callback(hold(folder))
        # So that a model has one answer to a prompt.
        rollouts = parts.rollouts
        rollouts.sampling = replace(rollouts.sampling, temperature=0.0, n=1, pass_k=1)
        prompts = held_out_prompts(parts, results, options.split)
        voters = Voters(parts, results, prompts, folder / REPLIES)
        asked = parts.config["trainer"].get("logger")
        loggers = loggers_for(asked, folder, "vote") if writes else []
        centre, replies = voters.replies(candidates, _tell if writes else None)
        if not writes:
            return
        answers = [given_answers(parts.task, prompts, each.texts) for each in replies]
        rows = vote_rows(centre.rewards, np.array([each.rewards for each in replies]), answers)
        settings = {"probe": str(options.probe), "top": options.top, "split": options.split}
        with logging_to(loggers, {f"vote.{name}": value for name, value in settings.items()}):
            _write(folder, rows, _about(results, options, candidates, len(prompts)))
            for logger in loggers:
                for row in rows[1:]:
                    logger.log_metrics({f"vote/{name}": row[name] for name in METRICS}, step=row["k"])
            for name in (TABLE, SUMMARY):
                log_artifact(loggers, folder / name, "vote")


def _tell(done: int, of: int, reward: float) -> None:
    log.info("%d of %d models, reward %.4g", done, of, reward)


def _about(
    results: ProbeResults, options: Namespace, candidates: Sequence[Candidate], prompts: int
) -> dict[str, Any]:
    """Return who votes, and what it took to find them."""
    header, drawn = results.header, len(considered(results, options.sigma))
    seen = len(header["prompt_ids"])
    return {
        "probe": str(results.folder),
        "model": header["model"],
        "task": header["task"],
        "sigma": options.sigma,
        "split": options.split,
        "prompts": prompts,
        "candidates_ranked": drawn,
        "prompts_of_ranking": seen,
        "rollouts_of_ranking": drawn * seen * header["sampling"]["n"],
        "voters": [
            {
                "candidate": each.candidate,
                "sigma": each.sigma,
                "seed": each.seed,
                "sign": each.sign,
                "reward_in_probe": float(np.mean(each.rewards)),
            }
            for each in candidates
        ],
    }


def _write(folder: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write the table as CSV and JSON, and show it."""
    write_csv(folder / TABLE, [{name: _cell(value) for name, value in row.items()} for row in rows])
    plain = [{name: None if value != value else value for name, value in row.items()} for row in rows]
    with replacing(folder / SUMMARY) as file:
        file.write((json.dumps({**about, "rows": plain}, indent=2, ensure_ascii=False) + "\n").encode())
    title = (
        f"Vote of {about['model']}'s best candidates, task {about['task']}: {about['prompts']} prompts of "
        f"{about['split']}"
    )
    below = [
        f"Ranked on {about['prompts_of_ranking']} other prompts: {about['candidates_ranked']} candidates, "
        f"{about['rollouts_of_ranking']:,} rollouts. +- is one standard error over prompts, paired.",
        f"{folder} has the table and all replies.",
    ]
    show(title, [_shown(row) for row in rows], below)


def _cell(value: Any) -> Any:
    return "" if value != value else value  # nan is what the centre has not


def _shown(row: Row) -> dict[str, Any]:
    """Return a row as the terminal shows it."""
    alone = row["k"] == 0
    return {
        "models": row["models"],
        "vote": row["vote"],
        "vs centre": "-" if alone else _change(row, "vote_change"),
        "vs best": "-" if row["k"] < 2 else _change(row, "over_best"),
        "mean": row["mean"],
        "mean vs centre": "-" if alone else _change(row, "mean_change"),
        "agreement": row["agreement"],
        "rollouts per answer": row["rollouts_per_prompt"],
    }


def _change(row: Row, name: str) -> str:
    return f"{row[name]:+.4f} +- {row[f'{name}_se']:.4f}"
