"""The trainings of an experiment in MLflow, and the files that they have left."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from es_lightning.errors import UsageError
from es_lightning.tracking import address
from es_lightning.tracking.places import MLFLOW_RUN
from es_lightning.tracking.secrets import root_cause, without_password
from es_lightning.tracking.sender import fail_fast

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_FOLDER = "trainer/default_root_dir"  # a fit's parameter
_AT_ONCE = 100  # runs in an answer


class Training(NamedTuple):
    """A fit or a baseline.

    Args:
        name: in MLflow, with the beginning of its id.
        run_id: its whole id.
        folder: that holds its files.
    """

    name: str
    run_id: str
    folder: Path


def trainings(experiment: str, uri: str, files: Sequence[str], scratch: Path) -> list[Training]:
    """Find an experiment's trainings, the oldest first, and fetch their files.

    A training whose own folder is still there, relative to the working folder, is read from it; what MLflow
    keeps may be older.

    Args:
        experiment: its name.
        uri: MLflow's address.
        files: paths within a run's folder, which are the same among its artifacts.
        scratch: folder to put a folder for each run into.

    Raises:
        UsageError: MLflow cannot be read, or has no such experiment.
    """
    whole = _checked(uri)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = MlflowClient(whole)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise _no_experiment(client, experiment)
        runs = _runs(client, found.experiment_id)
        return [_fetched(client, run, files, scratch) for run in runs if _is_training(run)]
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise UsageError(
            f"MLflow at {without_password(uri)} cannot be read ({root_cause(error)}): start it, or name "
            "another one with MLFLOW_TRACKING_URI."
        ) from error


def _checked(uri: str) -> str:
    """Return the whole address; a database has to be there."""
    whole = address.complete(uri)
    file = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", whole)
    if file and not Path(file[1]).is_file():  # MLflow would make a new one
        raise UsageError(
            f"there is no {file[1]}: go to the folder that the runs were started in, or name MLflow's "
            "address with MLFLOW_TRACKING_URI."
        )
    fail_fast()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one for each small file
    return whole


def _no_experiment(client: MlflowClient, name: str) -> UsageError:
    names = [each.name for each in client.search_experiments()]
    near = difflib.get_close_matches(name, names, n=1)
    said = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(names)[:10])}."
    return UsageError(f"MLflow has no experiment {name}: {said}")


def _runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            max_results=_AT_ONCE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            return found


def _is_training(run: Run) -> bool:
    """Tell fits and baselines from tests, probes and others, which have tags of their own."""
    tags = run.data.tags
    return tags.get("es.command", "fit") == "fit" and tags.get("kind", "baseline") == "baseline"


def _fetched(client: MlflowClient, run: Run, files: Sequence[str], scratch: Path) -> Training:
    run_id = run.info.run_id
    name = f"{run.info.run_name} ({run_id[:8]})"
    own = Path(run.data.params.get(_FOLDER, ""))
    if _belongs(own, run_id):
        return Training(name, run_id, own)
    folder = scratch / run_id
    folder.mkdir()
    kept = {each.path for place in ("", "tables") for each in client.list_artifacts(run_id, place or None)}
    for file in files:
        if file in kept:
            place = folder / file
            place.parent.mkdir(exist_ok=True)
            # Some of MLflow's stores keep the folders of a path, others do not.
            Path(client.download_artifacts(run_id, file, str(folder))).replace(place)
    return Training(name, run_id, folder)


def _belongs(folder: Path, run_id: str) -> bool:
    """Whether the file in a folder says that it is that run's."""
    try:
        known = json.loads((folder / MLFLOW_RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and known.get("run_id") == run_id
