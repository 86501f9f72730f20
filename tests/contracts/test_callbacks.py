"""What every callback must keep to. A new callback adds one row to ``CASES``."""

import inspect
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from es_lightning import callbacks
from es_lightning.callbacks import (
    BestModel,
    EarlyPeak,
    ExportHF,
    Forgetting,
    GenerationTimer,
    KLDrift,
    PopulationHealth,
    RolloutTable,
    RunRecord,
    RunReport,
    SigmaFinder,
    UpdateGeometry,
)
from es_lightning.datamodule import TaskDataModule
from es_lightning.grading.scorer import Grading
from tests.helpers.fits import Letters, module, trainer

STEPS = 4
DOCS = Path(__file__).parents[2] / "docs" / "callbacks.md"


@dataclass(frozen=True)
class Case:
    """One callback.

    Args:
        make: builds it, set so that it has something to do within four generations.
        metrics: beginnings of the names that it logs; none where it logs nothing.
        files: what it leaves in the run's folder.
        measures_time: whether its state holds seconds, which no two runs share.
    """

    make: Callable[[], Callback]
    metrics: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    measures_time: bool = False


CASES = {
    "BestModel": Case(BestModel, (), ("best/config.json", "best/README.md", "best/journal.jsonl")),
    "EarlyPeak": Case(EarlyPeak, ("health/peak_generation", "health/peak_reward"), ("plots/early_peak.png",)),
    "ExportHF": Case(
        lambda: ExportHF(every=2),
        (),
        ("exported/step=4/config.json", "exported/step=4/README.md", "exported/step=4/journal.jsonl"),
    ),
    "Forgetting": Case(
        lambda: Forgetting({"letters": Letters()}, every=2, grading=Grading(workers=0)),
        ("prior/letters", "prior/letters_minimum", "prior/letters_change", "prior/mean"),
        ("plots/forgetting.png", "tables/forgetting.json"),
    ),
    "GenerationTimer": Case(
        GenerationTimer, ("time/wall_s", "time/peak_memory_gib"), ("plots/generation_timer.png",), True
    ),
    "KLDrift": Case(
        lambda: KLDrift(prompts=4, max_tokens=6, every=2),
        ("kl_base_tuned/", "kl_tuned_base/", "kl_tuned_base_k3/"),
        ("plots/kl_drift.png", "tables/kl_drift.json"),
    ),
    "PopulationHealth": Case(
        lambda: PopulationHealth(centre_every=2, patience=2),
        (
            "health/agreement",
            "health/snr",
            "health/above_centre",
            "health/member_variance",
            "health/distinct",
        ),
        ("plots/population_health.png",),
    ),
    "SigmaFinder": Case(
        lambda: SigmaFinder(num=3, pairs=4, prompts=2),
        files=("plots/sigma_finder.png", "tables/sigma_finder.json"),
    ),
    "RolloutTable": Case(
        lambda: RolloutTable(prompts=2, every=2), (), ("tables/rollouts.json", "tables/rollouts.html")
    ),
    "RunRecord": Case(lambda: RunRecord("smoke")),
    "RunReport": Case(
        RunReport, ("held_out/reward",), ("model/config.json", "plots/reward.png", "summary.json"), True
    ),
    "UpdateGeometry": Case(
        lambda: UpdateGeometry(every=2, steps=True),
        ("geometry/norm", "geometry/norm_ratio", "geometry_group/q", "geometry/step_norm"),
        ("tables/update_geometry.json", "plots/update_geometry.png"),
    ),
}
ELSEWHERE = {"GenerationBar", "GracefulStop", "Monitor", "Periodic"}  # no state, or no callback by itself
case = pytest.mark.parametrize("name", CASES)


class Kept(Logger):
    """A logger that keeps what it gets."""

    def __init__(self) -> None:
        self.metrics: list[tuple[str, float, int]] = []

    name = version = "kept"

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep them."""
        self.metrics += [(key, float(value), int(step or 0)) for key, value in metrics.items()]


class AfterSanityChecking(Callback):
    """Keeps what another callback knows, and what was logged, when the sanity check is over."""

    def __init__(self, watched: Callback, logger: Kept) -> None:
        self.watched, self.logger = watched, logger
        self.state: Any = None
        self.metrics: list[Any] = ["never run"]

    def on_sanity_check_end(self, *_: Any) -> None:
        """Look."""
        self.state, self.metrics = comparable(self.watched.state_dict()), list(self.logger.metrics)


def fit(
    folder: Path,
    watched: Callback,
    steps: int = STEPS,
    others: Any = (),
    ckpt: str | None = None,
    **options: Any,
) -> Kept:
    """A fit of the tiny model, validating after every second generation; returns what was logged."""
    logger = Kept()
    run = trainer(
        folder, steps, [watched, *others], logger=logger, val_check_interval=2, log_every_n_steps=1, **options
    )
    run.fit(module(), TaskDataModule(Letters(), grading=Grading(workers=0)), ckpt_path=ckpt)
    return logger


def comparable(state: dict[str, Any]) -> bytes:
    """A state as bytes, since tensors in it do not compare."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return repr(torch.load(buffer, weights_only=True)).encode()


def test_every_callback_has_a_row() -> None:
    assert set(callbacks.__all__) - ELSEWHERE == set(CASES)


@case
def test_the_docs_have_an_entry_with_a_picture(name: str) -> None:
    found = re.search(
        rf"^## {name}\n(.*?)(?=^## |\Z)", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert found, f"docs/callbacks.md has no section {name}"
    [picture] = re.findall(r"!\[.+?\]\((.+?)\)", found[1])
    assert (DOCS.parent / picture).read_bytes().startswith(b"\x89PNG")


@case
def test_a_callback_is_a_yaml_section(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=Callback)
    parsed = parser.parse_object({"callback": {"class_path": f"es_lightning.callbacks.{name}"}})
    made = parser.instantiate(parsed).callback
    assert type(made) is getattr(callbacks, name)


@case
def test_every_argument_is_explained(name: str) -> None:
    kind = getattr(callbacks, name)
    arguments = set(inspect.signature(kind.__init__).parameters) - {"self"}
    explained = set(re.findall(r"^\s{8}(\w+): ", inspect.getdoc(kind) or "", re.MULTILINE)) | set(
        re.findall(r"^\s{4}(\w+): ", inspect.getdoc(kind) or "", re.MULTILINE)
    )
    assert arguments <= explained, f"{name} does not say what {arguments - explained} are"


@pytest.mark.slow
@pytest.mark.callbacks
@case
def test_a_fit_leaves_metrics_files_and_a_state_without_code(name: str, tmp_path: Path) -> None:
    watched = CASES[name].make()
    logger = fit(tmp_path, watched)
    logged = {key for key, _, _ in logger.metrics}
    for beginning in CASES[name].metrics:
        assert any(key.startswith(beginning) for key in logged), f"{beginning} is not among {sorted(logged)}"
    for file in CASES[name].files:
        assert (tmp_path / file).stat().st_size > 0
    assert all(re.fullmatch(r"[A-Za-z0-9_/. -]+", key) for key in logged), "MLflow takes no other characters"
    assert all(0 <= step <= STEPS for _, _, step in logger.metrics)
    fresh = CASES[name].make()
    fresh.load_state_dict(watched.state_dict())
    assert comparable(fresh.state_dict()) == comparable(watched.state_dict())


@pytest.mark.slow
@pytest.mark.callbacks
@case
def test_nothing_is_measured_while_sanity_checking(name: str, tmp_path: Path) -> None:
    watched = CASES[name].make()
    fresh = comparable(watched.state_dict())
    logger = Kept()
    look = AfterSanityChecking(watched, logger)
    run = trainer(tmp_path, 1, [watched, look], logger=logger, num_sanity_val_steps=1)
    run.fit(module(), TaskDataModule(Letters(), grading=Grading(workers=0)))
    assert (look.state, look.metrics) == (fresh, [])


@pytest.mark.slow
@pytest.mark.callbacks
@case
def test_a_resumed_run_knows_what_an_uninterrupted_one_does(name: str, tmp_path: Path) -> None:
    if CASES[name].measures_time:
        pytest.skip("seconds differ between any two runs")
    whole = CASES[name].make()
    fit(tmp_path / "whole", whole)
    checkpoints = ModelCheckpoint(tmp_path / "parts" / "checkpoints", "{step}", save_top_k=-1, monitor=None)
    fit(tmp_path / "parts", CASES[name].make(), 2, [checkpoints], enable_checkpointing=True)
    resumed = CASES[name].make()
    ckpt = str(tmp_path / "parts" / "checkpoints" / "step=2.ckpt")
    fit(tmp_path / "parts", resumed, others=[checkpoints], ckpt=ckpt, enable_checkpointing=True)
    assert comparable(resumed.state_dict()) == comparable(whole.state_dict())


@pytest.mark.slow
@pytest.mark.callbacks
@case
def test_a_callback_changes_nothing_about_the_run(name: str, tmp_path: Path) -> None:
    fit(tmp_path / "with", CASES[name].make())
    fit(tmp_path / "without", Callback())
    checksums = [
        re.findall(r'"checksum":"(\w+)"', (tmp_path / each / "journal.jsonl").read_text())
        for each in ("with", "without")
    ]
    assert checksums[0] == checksums[1]
    assert len(checksums[0]) == STEPS
