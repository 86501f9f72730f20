"""UpdateGeometry in fits of the tiny model: its numbers are those of the weights before and after."""

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from safetensors.torch import load_file, save_file

from es_lightning.algorithm.noise import CorrelatedNoise, FilteredNoise, GaussianNoise, LowRankNoise, Noise
from es_lightning.algorithm.regularisers import AnchoredDecay, ClipNorm, Regulariser, SparseUpdate
from es_lightning.algorithm.schedules import CosineSchedule, LinearSchedule
from es_lightning.analysis.geometry import group_of
from es_lightning.callbacks.monitor import title
from es_lightning.callbacks.update_geometry import UpdateGeometry
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Ranks
from es_lightning.errors import UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.models.base_model import resolve
from es_lightning.module import EvolutionStrategies
from tests.helpers.fits import Letters, fit, module, trainer

pytestmark = [pytest.mark.slow, pytest.mark.callbacks]  # many fits

State = dict[str, Any]


class Centres(Callback):
    """Keeps the base and every centre in float64."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The base."""
        self.states.append(float64(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """After the update."""
        self.states.append(float64(pl_module))


class Back(Callback):
    """Puts the centre back to the one before some generation, after an update."""

    def __init__(self, turns: dict[int, int]) -> None:
        self.turns = turns

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Go back, if this is the moment."""
        if pl_module.generation in self.turns:
            pl_module.restore(self.turns[pl_module.generation])


def float64(tuned: EvolutionStrategies) -> State:
    return {name: p.detach().numpy().astype(np.float64) for name, p in tuned.centre.named_parameters()}


def norm(a: State, b: State, group: str = "") -> float:
    names = [name for name in a if not group or group_of(name) == group]
    return float(np.sqrt(sum(((a[name] - b[name]) ** 2).sum() for name in names)))


def other_model(folder: Path, scale: float = 1e-3, drop: str = "", cut: str = "") -> Path:
    """The tiny model with other weights."""
    shutil.copytree(resolve("tiny"), folder)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(7)
    for name, tensor in tensors.items():
        tensors[name] = (tensor.float() + scale * torch.randn(tensor.shape, generator=generator)).bfloat16()
    if cut:
        tensors[cut] = tensors[cut][:-1].clone()
    save_file({n: t for n, t in tensors.items() if n != drop}, folder / "model.safetensors")
    return folder


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def test_every_number_is_that_of_the_weights(tmp_path: Path) -> None:
    target = other_model(tmp_path / "other")
    watch, centres = UpdateGeometry(every=2, steps=True, top=3, direction=str(target)), Centres()
    tuned, records = fit(Letters(), tmp_path / "run", steps=5, callbacks=[watch, centres])
    base = centres.states[0]
    assert [row["generation"] for row in watch.rows] == [2, 4, 5]
    for row in watch.rows:
        generation = int(row["generation"])
        theta = centres.states[generation]
        assert row["geometry/norm"] == pytest.approx(norm(theta, base), rel=1e-12)
        assert row["geometry/norm"] == pytest.approx(records.generations[generation - 1].drift, rel=1e-6)
        for group in ("q", "k", "v", "o", "mlp", "norm", "embedding"):
            assert row[f"geometry_group/{group}"] == pytest.approx(norm(theta, base, group), rel=1e-12)
        if generation < 5:  # the last one was not due: no copy was made of the centre before it
            before = centres.states[generation - 1]
            assert row["geometry/step_norm"] == pytest.approx(norm(theta, before), rel=1e-12)
            assert row["geometry_step/q"] == pytest.approx(norm(theta, before, "q"), rel=1e-12)
        else:
            assert "geometry/step_norm" not in row
        check_projection(row, theta, base, target, math.sqrt(0.05**2 * generation / 4))
    check_table(tmp_path / "run", watch, centres)


def check_projection(row: State, theta: State, base: State, target: Path, spread: float) -> None:
    tensors = load_file(target / "model.safetensors")
    u = {name: tensors[name].float().numpy().astype(np.float64) - base[name] for name in base}
    length = math.sqrt(sum((each**2).sum() for each in u.values()))
    progress = sum(((theta[name] - base[name]) * u[name]).sum() for name in u) / length
    assert row["geometry/projection"] == pytest.approx(progress, rel=1e-9)
    assert row["geometry/projection_z"] == pytest.approx(progress / spread, rel=1e-6)
    assert row["geometry/projection_cosine"] == pytest.approx(progress / norm(theta, base), rel=1e-9)
    assert abs(row["geometry/projection_z"]) < 6  # no reward has to do with this direction


def check_table(folder: Path, watch: UpdateGeometry, centres: Centres) -> None:
    written = json.loads((folder / "tables" / "update_geometry.json").read_text())
    base, theta = centres.states[0], centres.states[5]
    layers = {layer: {n: a for n, a in theta.items() if f"layers.{layer}." in n} for layer in "01"}
    for layer, part in layers.items():
        assert written["layers"][layer]["norm"] == pytest.approx(
            norm(part, {name: base[name] for name in part}), rel=1e-12
        )
    largest = max(theta, key=lambda name: np.abs(theta[name] - base[name]).max())
    assert written["largest_change"][0]["tensor"] == largest
    assert len(written["largest_change"]) == len(written["largest_relative"]) == 3
    assert [row["generation"] for row in written["history"]] == [2, 4, 5]
    assert written["generation"] == watch.latest["generation"] == 5
    assert (folder / "plots" / "update_geometry.png").stat().st_size > 0
    assert not list(folder.glob("*.scratch*"))


@pytest.mark.parametrize("options", [{}, {"antithetic": True}, {"population": 9}])
def test_each_step_has_the_length_of_the_law(tmp_path: Path, options: dict[str, Any]) -> None:
    watch = UpdateGeometry(every=1)
    fit(Letters(), tmp_path, steps=3, callbacks=[watch], **options)
    _, ratios = watch.column("geometry/norm_ratio")
    # 115,264 entries: the norm of the noise has a standard deviation of 1 / sqrt(2 d) = 0.2 %
    assert ratios == pytest.approx([1.0] * 3, abs=0.02)


class Indifferent(Letters):
    """Earns the same whatever is said."""

    def reward(self, prompt: Any, completion: str) -> float:
        return 1.0


@pytest.mark.filterwarnings("error::UserWarning:matplotlib")
def test_a_run_whose_generations_are_all_skipped_is_still_measured_and_drawn(tmp_path: Path) -> None:
    watch = UpdateGeometry(every=1, steps=True)
    fit(Indifferent(), tmp_path, steps=2, callbacks=[watch])
    row = watch.rows[-1]
    assert row["geometry/norm"] == row["geometry/step_norm"] == row["geometry/max_change"] == 0.0
    assert row["geometry/sparsity_ulp"] == row["geometry/sparsity_1e-6"] == 1.0
    assert "geometry/norm_ratio" not in row
    assert (tmp_path / "plots" / "update_geometry.png").stat().st_size > 0


def test_without_the_law_there_is_no_ratio_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch, centres = UpdateGeometry(every=1, direction=str(other_model(tmp_path / "other"))), Centres()
    with caplog.at_level(logging.WARNING):
        fit(Letters(), tmp_path, steps=3, callbacks=[watch, centres], optimizer=adam)
    assert watch.rows[-1]["geometry/norm"] == pytest.approx(norm(centres.states[-1], centres.states[0]))
    assert "geometry/projection_cosine" in watch.rows[0]
    assert not {"geometry/norm_ratio", "geometry/projection_z"} & {key for row in watch.rows for key in row}
    assert caplog.text.count("SGD without momentum and weight decay") == 1


@pytest.mark.parametrize(
    "noise",
    [
        FilteredNoise(GaussianNoise(compile=False), include=["*mlp*", "*norm*"]),
        LowRankNoise(8, vectors="frozen", compile=False),
    ],
)
def test_frozen_parameters_and_schedules_leave_the_law_as_it_is(
    tmp_path: Path, noise: Noise, caplog: pytest.LogCaptureFixture
) -> None:
    watch = UpdateGeometry(every=1)
    schedules = {"sigma_schedule": CosineSchedule(3), "population_schedule": LinearSchedule(4, 3.6)}
    tuned, records = fit(Letters(), tmp_path, steps=3, callbacks=[watch], noise=noise, **schedules)
    [warning] = [each.getMessage() for each in caplog.records if "schedule" in each.getMessage()]
    assert warning.startswith("model.population_schedule takes 4 generations, but trainer.max_steps is 3")
    assert "population 4 at first, sigma 0.05 at first, lr 0.05, seed" in title(tuned)
    # 4 members times 1, 1.65 and 2.3: 4, 6.6 and 9.2
    assert [len(record.members) for record in records.generations] == [4, 7, 9]
    _, ratios = watch.column("geometry/norm_ratio")
    assert ratios == pytest.approx([1.0] * 3, abs=0.04)


@pytest.mark.parametrize("part", [SparseUpdate(keep=0.1), AnchoredDecay(l2=1.0), ClipNorm(0.1)])
def test_with_regularisers_there_is_no_ratio_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, part: Regulariser
) -> None:
    watch = UpdateGeometry(every=1, direction=str(other_model(tmp_path / "other")))
    fit(Letters(), tmp_path, steps=2, callbacks=[watch], regularisers=[part])
    assert watch.rows[-1]["geometry/norm"] > 0
    assert not {"geometry/norm_ratio", "geometry/projection_z"} & {key for row in watch.rows for key in row}
    assert caplog.text.count("without regularisers") == 1


def test_shared_noise_has_the_norm_of_the_law_but_no_z_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = UpdateGeometry(every=2, direction=str(other_model(tmp_path / "other")))
    fit(Letters(), tmp_path, steps=2, callbacks=[watch], noise=CorrelatedNoise())
    assert watch.rows[0]["geometry/norm_ratio"] == pytest.approx(1.0, abs=0.03)
    assert "geometry/projection_z" not in watch.rows[0]
    assert "independent in every entry" in caplog.text


def test_where_the_centre_was_put_back_the_law_counts_what_led_to_it(tmp_path: Path) -> None:
    watch, centres = UpdateGeometry(every=1, steps=True), Centres()
    fit(Letters(), tmp_path, steps=5, callbacks=[Back({3: 1}), watch, centres])
    _, ratios = watch.column("geometry/norm_ratio")
    assert ratios == pytest.approx([1.0] * 5, abs=0.02)  # after 1, 2, 1, 2 and 3 updates
    steps, found = watch.column("geometry/step_norm")
    assert steps == [1, 2, 4, 5], "a centre put back is no step"
    expected = [norm(centres.states[i], centres.states[i - 1]) for i in (1, 2, 4, 5)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_line_of_the_random_walk_is_named_for_what_it_is_where_members_come_in_pairs(
    tmp_path: Path,
) -> None:
    watch = UpdateGeometry(every=1)
    tuned, records = fit(Letters(), tmp_path, steps=2, callbacks=[watch], population=8, antithetic=True)
    figure = watch.figure(tuned.trainer)
    left = figure.axes[0]
    [walk] = [line for line in left.get_lines() if line.get_linestyle() == "--"]
    assert "journal's weights" in str(walk.get_label())
    assert "alpha" not in str(walk.get_label()), "alpha sqrt(T d / N) is the law of unpaired z-scores alone"
    entries = sum(each.numel() for each in tuned.centre.parameters())
    variance = sum(
        (record.lr / 8) ** 2 * float((record.weights[::2] - record.weights[1::2]).square().sum())
        for record in records.generations
    )
    assert walk.get_ydata()[-1] == pytest.approx((variance * entries) ** 0.5, rel=1e-6)
    plain = records.generations[0].lr * (2 * entries / 8) ** 0.5
    assert abs(walk.get_ydata()[-1] / plain - 1) > 0.05


class BackAtTheEnd(Callback):
    """Puts the centre back to the one before some generation when training is over."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Go back."""
        pl_module.restore(1)


@pytest.mark.parametrize(("others", "steps"), [([], [2.0]), ([BackAtTheEnd()], [2.0, 2.0])])
def test_the_last_row_is_of_the_last_centre(tmp_path: Path, others: list[Any], steps: list[float]) -> None:
    watch = UpdateGeometry(every=2)
    tuned, _ = fit(Letters(), tmp_path, steps=2, callbacks=[*others, watch])
    assert [row["generation"] for row in watch.rows] == steps
    assert watch.rows[-1]["geometry/norm"] == pytest.approx(float(tuned.drift), rel=1e-6)


def test_a_callback_added_to_a_resumed_run_knows_the_updates_before_it(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "checkpoints", "{step}", every_n_train_steps=2, save_top_k=-1)
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    trainer(tmp_path, 3, [saving], enable_checkpointing=True).fit(module(), data)
    watch = UpdateGeometry(every=4)
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    path = str(tmp_path / "checkpoints" / "step=2.ckpt")
    trainer(tmp_path, 4, [watch]).fit(module(), data, ckpt_path=path)
    assert watch.rows[-1]["geometry/norm_ratio"] == pytest.approx(1.0, abs=0.02)
    assert watch.rows[-1]["generation"] == 4


def test_every_rank_goes_by_what_rank_0_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(ranks: Ranks, payload: bytes) -> list[bytes]:
        """This rank hears other numbers than it has found."""
        if b'"metrics"' not in payload:
            return [payload]
        told = json.loads(payload)
        told["metrics"]["geometry/norm"] = 123.0
        return [json.dumps(told).encode(), b""]

    monkeypatch.setattr(Ranks, "exchange", exchange)
    watch = UpdateGeometry(every=1)
    run = trainer(tmp_path, 1, [watch])
    run.fit(module(), TaskDataModule(Letters(), grading=Grading(workers=0)))
    assert watch.rows[0]["geometry/norm"] == float(run.callback_metrics["geometry/norm"]) == 123.0


def test_a_run_that_fails_leaves_no_copy_of_the_centre(tmp_path: Path) -> None:
    seen: list[int] = []

    class Fails(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            seen.extend(path.stat().st_size for path in tmp_path.glob("*.scratch"))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(Letters(), tmp_path, steps=1, callbacks=[Fails(), UpdateGeometry(every=1, steps=True)])
    assert seen == [4 * 115_264]
    assert not list(tmp_path.glob("*.scratch"))


def test_the_picture_shows_the_rows_the_law_and_the_layers(tmp_path: Path) -> None:
    watch = UpdateGeometry(every=1)
    tuned, _ = fit(Letters(), tmp_path, steps=3, callbacks=[watch])
    left, right = watch.figure(tuned.trainer).axes
    walk, line = left.get_lines()
    assert list(line.get_xdata()) == [0, 1, 2, 3]
    assert list(line.get_ydata()) == [0.0, *watch.column("geometry/norm")[1]]
    halfway = np.interp(1.5, walk.get_xdata(), walk.get_ydata())
    assert halfway == pytest.approx(0.05 * math.sqrt(1.5 * 115_264 / 4), rel=1e-3)
    lines = {line.get_label(): list(line.get_ydata()) for line in right.get_lines()}
    cells = [watch.latest["layers"][layer]["groups"]["q"]["norm_relative"] for layer in "01"]
    assert lines["q"] == cells
    assert lines["embedding"] == [watch.latest["groups"]["embedding"]["norm_relative"]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0"),
        ({"top": 0}, "top is 0"),
        ({"thresholds": (1e-6, 0.0)}, "changes above 0"),
        ({"thresholds": (1e-6, 1.0)}, "below 1"),  # MLflow takes no name with 1e+0
        ({"thresholds": (1e-6, 1e-4, 1e-6)}, "different changes"),
    ],
)
def test_values_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        UpdateGeometry(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": "model.norm.weight"}, "the first is model.norm.weight"),
        ({"cut": "model.norm.weight"}, r"model.norm.weight is \[63\] in the file and \[64\]"),
        ({"scale": 0.0}, "is tiny itself"),
        (None, "no model at"),
    ],
)
def test_a_direction_that_is_none_is_refused_before_the_engine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any] | None, message: str
) -> None:
    folder = tmp_path / "other" if changes is None else other_model(tmp_path / "other", **changes)
    tuned, started = module(), []
    monkeypatch.setattr(tuned.rollouts.engine, "start", lambda *given: started.append(given))
    run = trainer(tmp_path, 1, [UpdateGeometry(direction=str(folder))])
    with pytest.raises(UsageError, match=message):
        run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)))
    assert not started
