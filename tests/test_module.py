"""Whole fits of the tiny model in this process: what a generation does, and what it leaves alone."""

import math
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR

from es_lightning.algorithm.noise import CorrelatedNoise
from es_lightning.algorithm.shaping import reward_statistics
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import DivergenceError, RewardError, UsageError
from es_lightning.grading.scorer import Grading
from es_lightning.journal.entry import JOURNAL, read_journal
from es_lightning.journal.evaluations import read_evaluations
from es_lightning.records import Prompt
from es_lightning.rollout import HFEngine, Sampling
from es_lightning.task import Reward
from tests.helpers.fits import Letters, Records, fit, module, trainer


class Constant(Letters):
    """Earns the same whatever the completion says."""

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return 1.0


def test_the_same_seed_gives_the_same_rewards_and_the_same_weights(tmp_path: Path) -> None:
    (one, first), (two, second) = (fit(Letters(), tmp_path / str(i), seed=5) for i in range(2))
    for a, b in zip(first.generations, second.generations, strict=True):
        assert torch.equal(a.rewards, b.rewards)
    assert one.checksum() == two.checksum()
    assert fit(Letters(), tmp_path / "3", seed=6)[0].checksum() != one.checksum()


def test_the_centre_changes_in_updates_alone(tmp_path: Path) -> None:
    tuned, records = fit(Letters(), tmp_path)
    before, after = records.checksums[::2], records.checksums[1::2]
    assert after[:-1] == before[1:]
    assert len(set(after)) == 3
    assert tuned.checksum() == after[-1]


def test_members_are_theta_plus_sigma_eps(tmp_path: Path) -> None:
    tuned, records = fit(Letters(), tmp_path, steps=1, antithetic=True)
    for member in records.generations[0].members:
        for name, tensor in tuned.rollouts.perturbed(tuned.centre, member, tuned.noise, tuned.sigma):
            theta = tuned.centre.get_parameter(name).double()
            eps = tuned.noise.sample(member.seed, name, theta.shape).double()
            torch.testing.assert_close(
                tensor.double(), theta + member.sign * 0.05 * eps, rtol=3e-7, atol=1e-8
            )


def test_a_generations_record_is_complete(tmp_path: Path) -> None:
    _, records = fit(Letters(), tmp_path, steps=2)
    record = records.generations[1]
    assert record.index == 1
    assert record.rewards.shape == (4, 4)
    assert record.weights.mean().abs() < 1e-9
    assert record.sigma == record.lr == 0.05
    assert set(record.seconds) == {"perturb", "load", "generate", "reward", "gather", "update", "total"}
    assert record.tokens == sum(len(c.token_ids) for e in record.evaluations.values() for c in e.completions)
    assert list(record.evaluations) == [0, 1, 2, 3]
    assert record.update_norm > 0
    assert record.drift > record.update_norm / 2


def test_the_update_is_the_papers(tmp_path: Path) -> None:
    tuned, records = fit(Letters(), tmp_path, steps=1)
    record = records.generations[0]
    for name, theta in tuned.centre.named_parameters():
        eps = torch.stack([tuned.noise.sample(m.seed, name, theta.shape).double() for m in record.members])
        step = 0.05 / 4 * torch.einsum("n,n...->...", record.weights, eps)
        expected = tuned.base_model.weights.read(name).double() + step
        torch.testing.assert_close(theta.double(), expected, rtol=3e-7, atol=1e-8)


def test_exactly_max_steps_generations_are_run_and_counted(tmp_path: Path) -> None:
    tuned, records = fit(Letters(), tmp_path, steps=5)
    assert [record.index for record in records.generations] == [0, 1, 2, 3, 4]
    assert tuned.trainer.global_step == 5


def test_a_scheduler_steps_once_per_generation(tmp_path: Path) -> None:
    _, records = fit(
        Letters(), tmp_path, steps=4, lr_scheduler=lambda optimizer: StepLR(optimizer, 2, gamma=0.1)
    )
    assert [record.lr for record in records.generations] == pytest.approx([0.05, 0.05, 0.005, 0.005])


def test_a_plateau_scheduler_sees_the_mean_reward(tmp_path: Path) -> None:
    def make(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(
            optimizer, mode="max", patience=0, threshold=1e6, threshold_mode="abs", factor=0.1
        )

    _, records = fit(Letters(), tmp_path, steps=3, lr_scheduler=make)
    assert [record.lr for record in records.generations] == pytest.approx([0.05, 0.05, 0.005])


def test_an_optimizer_that_needs_a_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="LBFGS"):
        fit(Letters(), tmp_path, optimizer=torch.optim.LBFGS)


def test_equal_rewards_skip_the_update_and_are_counted(tmp_path: Path) -> None:
    logged: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            logged.append(float(trainer.callback_metrics["health/skipped"]))

    tuned, records = fit(Constant(), tmp_path, callbacks=[Watch()])
    assert len(set(records.checksums)) == 1
    assert all(record.skipped and not record.weights.any() for record in records.generations)
    assert logged == [1, 1, 1]
    assert tuned.trainer.global_step == 3


def test_the_first_skipped_generation_is_explained_on_rank_0(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        fit(Constant(), tmp_path)
    said = [record.message for record in caplog.records if "is skipped" in record.message]
    assert len(said) == 1
    assert said[0].startswith("Generation 0 is skipped, the centre stays as it is")


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), -1.0])
def test_a_learning_rate_that_cannot_be_meant_is_refused(tmp_path: Path, lr: float) -> None:
    with pytest.raises(UsageError, match=r"the optimizer's lr is|Invalid learning rate: -1\.0"):
        fit(Letters(), tmp_path, optimizer=lambda parameters: SGD(parameters, lr=lr))


@pytest.mark.slow
def test_an_update_that_ruins_the_centre_is_no_part_of_journal_and_checkpoints(tmp_path: Path) -> None:
    huge = {"lr_scheduler": lambda optimizer: LambdaLR(optimizer, lambda step: 1e38 if step == 2 else 1.0)}
    saved = ModelCheckpoint(tmp_path / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)
    with pytest.raises(
        DivergenceError, match=r"the update of generation 2 has ruined the centre: .*5e\+36 now"
    ):
        trainer(tmp_path, 4, [saved], enable_checkpointing=True).fit(
            module(**huge), TaskDataModule(Letters(), grading=Grading(workers=0))
        )
    _, entries = read_journal(tmp_path / JOURNAL)
    assert [entry.generation for entry in entries] == [0, 1]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step=1.ckpt", "step=2.ckpt"}


def test_a_scheduler_that_makes_the_learning_rate_nan_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the optimizer's lr is nan: .* look at model\.lr_scheduler"):
        fit(
            Letters(),
            tmp_path,
            lr_scheduler=lambda optimizer: LambdaLR(
                optimizer, lambda step: float("nan") if step == 1 else 1.0
            ),
        )
    assert len(read_journal(tmp_path / JOURNAL)[1]) == 1


def test_rewards_that_overflow_stop_the_run(tmp_path: Path) -> None:
    class Huge(Letters):
        def reward(self, prompt: Prompt, completion: str) -> Reward:
            return 1e308 * (-1.0) ** sum(map(ord, completion))

    with pytest.raises(RewardError):
        fit(Huge(), tmp_path)
    assert read_journal(tmp_path / JOURNAL)[1] == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_names_task_prompt_and_member(tmp_path: Path, bad: float) -> None:
    class Breaks(Letters):
        calls = 0

        def reward(self, prompt: Prompt, completion: str) -> Reward:
            self.calls += 1
            return bad if self.calls == 7 else 1.0

    with pytest.raises(RewardError, match=r"task Breaks .* prompt train/2.*member 1 of generation 0"):
        fit(Breaks(), tmp_path)


def test_validation_means_are_those_of_the_centre(tmp_path: Path) -> None:
    tuned, _ = fit(Letters(), tmp_path, data={"val_prompts": 3})
    evaluation = tuned.evaluate("val")
    metrics = tuned.trainer.callback_metrics
    assert len(evaluation.prompts) == 3
    assert float(metrics["val/reward"]) == pytest.approx(evaluation.reward, rel=1e-6)
    assert {"val/accuracy", "val/completion_tokens", "val/completion_chars"} <= set(metrics)


def test_the_test_problems_are_evaluated_along_with_every_validation_of_a_fit(tmp_path: Path) -> None:
    folders = tmp_path / "plain", tmp_path / "tested"
    options = {"val_check_interval": 1}
    for folder, along in zip(folders, (False, True), strict=True):
        tuned = module()
        data = TaskDataModule(Letters(), grading=Grading(workers=0), test_with_val=along)
        trainer(folder, 3, **options).fit(tuned, data)
    plain, tested = (read_evaluations(folder) for folder in folders)
    assert [(row.step, row.split) for row in tested] == [
        (step, split) for step in (1, 2, 3) for split in ("test", "val")
    ]
    assert [row for row in tested if row.split == "val"] == [
        replace(row, cost=other.cost) for row, other in zip(plain, tested[1::2], strict=True)
    ]
    assert tested[-2].rewards == tuple(tuned.evaluate("test").rewards)
    assert tested[-2].centre == tested[-1].centre == tuned.checksum()
    assert tested[-2].cost == tested[-1].cost
    assert float(tuned.trainer.callback_metrics["test/reward"]) == pytest.approx(
        sum(tested[-2].rewards) / len(tested[-2].rewards)
    )
    trainer(tmp_path, 3).validate(tuned, data)
    assert read_evaluations(folders[1]) == tested


def test_metrics_of_the_population_are_logged(tmp_path: Path) -> None:
    tuned, records = fit(Letters(), tmp_path)
    metrics, members = tuned.trainer.callback_metrics, records.generations[-1].rewards.mean(1)
    assert reward_statistics(records.generations[-1].rewards)["mean"] == pytest.approx(float(members.mean()))
    for name, value in (
        ("reward/mean", members.mean()),
        ("reward/std", members.std(correction=0)),
        ("reward/min", members.min()),
        ("reward/max", members.max()),
        ("geometry/update_norm", records.generations[-1].update_norm),
        ("geometry/drift", records.generations[-1].drift),
    ):
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5)
    expected = {"time/tokens_per_s", "reward/accuracy", "health/completion_tokens", "health/completion_chars"}
    assert expected | {f"time/{phase}_s" for phase in ("perturb", "generate", "reward", "update")} <= set(
        metrics
    )


@pytest.mark.slow
def test_the_drift_is_measured_every_so_often_and_before_validations(tmp_path: Path) -> None:
    whole, seldom = Records(), Records()
    for every, records in ((1, whole), (3, seldom)):
        tuned, run = (
            module(drift_every=every),
            trainer(tmp_path / f"{every}", 5, [records], val_check_interval=2),
        )
        run.fit(tuned, TaskDataModule(Letters(), grading=Grading(workers=0)))
    drifts = [[record.drift for record in records.generations] for records in (whole, seldom)]
    assert [math.isnan(each) for each in drifts[1]] == [False, True, True, False, True]
    assert [drifts[1][index] for index in (0, 3)] == [drifts[0][index] for index in (0, 3)]
    assert math.isnan(tuned.drift)
    metrics = tuned.trainer.callback_metrics
    assert float(metrics["geometry/drift"]) == pytest.approx(drifts[0][3], rel=1e-6)  # a float32
    assert whole.checksums == seldom.checksums


def test_a_drift_that_is_never_measured_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.drift_every is 0: give at least 1"):
        module(drift_every=0)


def test_test_and_validate_run_without_a_fit(tmp_path: Path) -> None:
    tuned, data = module(), TaskDataModule(Letters())
    run = trainer(tmp_path)
    assert run.test(tuned, data, verbose=False)[0].keys() >= {"test/reward", "test/accuracy"}
    assert run.validate(tuned, data, verbose=False)[0].keys() >= {"val/reward", "val/accuracy"}


@pytest.mark.slow
def test_a_test_of_a_checkpoint_after_a_fit_is_one_of_the_checkpoints_centre(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=1, save_top_k=-1)
    tuned, data = module(), TaskDataModule(Letters(), grading=Grading(workers=0))
    run = trainer(tmp_path, 3, [keep], enable_checkpointing=True)
    run.fit(tuned, data)  # which ends with a validation, so that the engine holds the last centre
    [found] = run.test(tuned, data, ckpt_path=str(tmp_path / "kept" / "step=1.ckpt"), verbose=False)
    theta = torch.load(tmp_path / "kept" / "step=1.ckpt", weights_only=True)["state_dict"]
    tuned.rollouts.engine.load_weights(
        (name, theta[f"centre.{name}"]) for name, _ in tuned.centre.named_parameters()
    )
    data.scorer.start()
    expected = tuned.evaluator.evaluate(data.prompts("test")).reward
    assert found["test/reward"] == pytest.approx(expected, rel=1e-6)
    assert expected != tuned.evaluate("val").reward


class Room(HFEngine):
    """Notes with how much room it is started."""

    def __init__(self) -> None:
        super().__init__(dtype="float32", device="cpu")
        self.rooms: list[int] = []

    def start(self, folder: Path, max_length: int) -> None:
        self.rooms.append(max_length)
        super().start(folder, max_length)


def test_an_engine_is_started_anew_for_a_stage_with_longer_prompts(tmp_path: Path) -> None:
    class Long(Letters):
        def problems(self, split: str) -> list[Prompt]:
            return [Prompt(f"{split}/0", "x" * {"train": 30, "val": 3, "test": 20}[split])]

    engine = Room()
    tuned, data = module(engine=engine), TaskDataModule(Long(), grading=Grading(workers=0))
    run = trainer(tmp_path, 1)
    for stage in (run.validate, run.test, run.fit, run.validate):
        stage(tuned, data)
    assert engine.rooms == [engine.rooms[0], engine.rooms[0] + 17, engine.rooms[0] + 27]


def test_a_module_that_was_tuned_already_begins_no_run(tmp_path: Path) -> None:
    tuned, _ = fit(Letters(), tmp_path / "one", steps=1)
    with pytest.raises(UsageError, match=r"tuned already.*make a new module, or give the ckpt_path"):
        trainer(tmp_path / "two", 1).fit(tuned, TaskDataModule(Letters()))
    assert not (tmp_path / "two" / "journal.jsonl").exists()


def test_sampling_and_other_noise_run_too(tmp_path: Path) -> None:
    sampling = Sampling(max_tokens=4, temperature=1.0, n=2)
    _, records = fit(Letters(), tmp_path, noise=CorrelatedNoise(), sampling=sampling)
    assert len(records.generations[0].evaluations[0].completions) == 8
    assert records.generations[0].rewards.shape == (4, 4)


def test_prompts_longer_than_the_model_are_refused_before_the_engine_starts(tmp_path: Path) -> None:
    refused = module(sampling=Sampling(max_tokens=1020))
    with pytest.raises(UsageError, match=r"prompt train/0 has .* the model ends at 1024: lower max_tokens"):
        trainer(tmp_path).fit(refused, TaskDataModule(Letters()))
    with pytest.raises(RuntimeError, match="not started"):
        refused.rollouts.engine.generate([Prompt("p", "x", token_ids=(1,))], Sampling())


def test_an_empty_split_is_refused_before_the_engine_starts(tmp_path: Path) -> None:
    class NoValidation(Letters):
        def problems(self, split: str) -> list[Prompt]:
            return [] if split == "val" else super().problems(split)

    refused = module()
    with pytest.raises(UsageError, match="no problems in split 'val'"):
        trainer(tmp_path).fit(refused, TaskDataModule(NoValidation()))
    with pytest.raises(RuntimeError, match="not started"):
        refused.rollouts.engine.logprobs([[1, 2]])


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), 1e30])
def test_a_sigma_that_is_not_positive_is_refused(sigma: float) -> None:
    with pytest.raises(UsageError, match="sigma"):
        module(sigma=sigma)


@pytest.mark.slow
def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, straight = fit(Letters(), tmp_path / "whole", steps=5, data={"prompts_per_generation": 3})
    data, options = TaskDataModule(Letters(), prompts_per_generation=3), {"enable_checkpointing": True}
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    trainer(tmp_path, 2, [checkpoint], **options).fit(module(), data)
    resumed, records = module(), Records()
    trainer(tmp_path, 5, [records], **options).fit(
        resumed,
        TaskDataModule(Letters(), prompts_per_generation=3),
        ckpt_path=tmp_path / "checkpoints" / "last.ckpt",
    )
    assert [record.index for record in records.generations] == [2, 3, 4]
    for ours, theirs in zip(records.generations, straight.generations[2:], strict=True):
        assert ours.prompts == theirs.prompts
        assert torch.equal(ours.rewards, theirs.rewards)
    assert resumed.checksum() == whole.checksum()
