"""The runs behind docs/results.md: every command is one that the command line takes."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import ttest_rel

from es_lightning.algorithm.noise import GaussianNoise
from es_lightning.analysis.comparison.budgets import SLACK
from es_lightning.analysis.devices import GPUS
from es_lightning.analysis.measured import size_for
from es_lightning.analysis.paired_peak import PairedPeakTest
from es_lightning.analysis.peak import PeakTest
from es_lightning.analysis.peak_watch import PeakWatch
from es_lightning.analysis.room import Case, Engine
from es_lightning.baselines.memory import needed
from es_lightning.baselines.settings import BaselineSettings
from es_lightning.errors import UsageError
from es_lightning.evaluation.costs import seconds_of
from es_lightning.journal.entry import read_journal
from es_lightning.journal.evaluations import RecordedEvaluation, read_evaluations
from es_lightning.landscape.theory.fitted_run import fitted_run
from es_lightning.models.size import published_size
from es_lightning.tasks.multiple_choice import MultipleChoice
from results import long_runs, lr_grid, reproduce_gpu, run, table
from results.suite import BASELINES, Run
from tests.cli.test_configs import parse

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place where the commands are given."""
    monkeypatch.chdir(ROOT)


def stems(folder: str) -> set[str]:
    return {path.stem for path in (ROOT / "results" / folder).glob("*.yaml")}


def test_every_arm_has_its_file_and_every_file_is_an_arm() -> None:
    apart = {f"{arm}-{task}" for arm in run.ARMS for task in run.TASKS}
    assert set(run.ARMS) == stems("arms") - apart
    assert set(run.TASKS) == stems("tasks")
    assert set(reproduce_gpu.TASKS) == stems("gpu/tasks")
    assert stems("gpu/arms") < set(run.ARMS)


def test_seeds_come_one_after_the_other_and_the_headline_has_more() -> None:
    runs = list(run.runs(["sums"], ["es", "raw"], None))
    assert [(each.arm, each.seed) for each in runs] == [
        *(("es", 0), ("raw", 0), ("es", 1), ("raw", 1), ("es", 2), ("raw", 2)),
        *(("es", 3), ("es", 4)),
    ]
    assert [each.seed for each in run.runs(["sums"], ["raw"], [1])] == [1]
    assert {each.arm for each in run.runs(["sums"], None, None)} == set(run.ARMS)
    assert {each.arm for each in run.runs(["conciseness"], None, None)} == set(run.ARMS) - {"es_longer"}


def test_the_reward_that_can_be_hacked_is_trained_by_es_alone_on_the_task_without_its_costs() -> None:
    assert [(each.arm, each.seed) for each in run.runs(["hackable"], None, None)] == [
        *(("es", 0), ("es", 1), ("es", 2))
    ]
    costly, free = (
        yaml.safe_load((ROOT / "results" / "tasks" / f"{name}.yaml").read_text())
        for name in ("conciseness", "hackable")
    )
    costs = [each["data"]["task"]["init_args"].pop("wrong_costs") for each in (costly, free)]
    assert costs == [200, 0]
    rates = [each["model"]["optimizer"]["init_args"].pop("lr") for each in (costly, free)]
    assert rates == [0.006, 0.012], "the runs of the second are older than the grid"
    assert [each["data"].pop("prompts_per_generation") for each in (costly, free)] == [16, 32], "as is this"
    assert costly == free, "nothing else differs"


@pytest.mark.parametrize("task", ["sums", pytest.param("conciseness", marks=pytest.mark.slow), "hackable"])
def test_the_commands_are_ones_that_the_command_line_takes(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in run.runs([task], None, [1]):
        command = each.training()
        if each.arm in BASELINES:
            assert settings_of(command).updates == 8
            continue
        config = parse(monkeypatch, *command).fit
        rollouts = config.model.population * config.data.prompts_per_generation * config.trainer.max_steps
        assert config.seed_everything == 1
        if each.arm != "es_longer":  # which has GRPO's time, not its rollouts
            assert rollouts == (2048 if task == "conciseness" else 4096)


@pytest.mark.parametrize("rate", lr_grid.RATES["es"])
def test_the_grid_s_fits_differ_from_their_arm_in_rate_seed_and_length(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = parse(monkeypatch, *lr_grid.run_of("es", rate).training()).fit
    arm = parse(monkeypatch, *next(run.runs(["sums"], ["es"], [0])).training()).fit
    assert (tried.model.optimizer.init_args.lr, tried.trainer.max_steps) == (rate, 4)
    assert tried.seed_everything not in run.HEADLINE_SEEDS
    for each in (tried, arm):
        assert each.model.seed == each.data.seed == each.seed_everything
        each.model.optimizer.init_args.lr = each.model.seed = each.data.seed = None
    assert tried.model == arm.model
    assert tried.data == arm.data


@pytest.mark.parametrize("rate", lr_grid.RATES["grpo"])
def test_so_do_its_baselines(rate: float) -> None:
    tried = settings_of(lr_grid.run_of("grpo", rate).training())
    arm = settings_of(next(run.runs(["sums"], ["grpo"], [0])).training())
    assert (tried.lr, tried.updates) == (rate, 4)
    assert replace(tried, lr=arm.lr, updates=arm.updates) == arm


def test_the_grid_of_the_page_is_what_its_runs_gave_and_the_arms_have_its_best() -> None:
    page = Path("docs/results.md").read_text(encoding="utf-8")
    page = page[page.index("| arm | lr |") :].split("\n\n")[0]
    row = re.compile(r"^\| `(\w+)` \| \**([\d.]+)\** \|(.*) \**([\d.]+)\** \|$", re.MULTILINE)
    told = {
        (arm, float(rate)): (list(map(float, re.findall(r"[\d.]+", each))), float(last))
        for arm, rate, each, last in row.findall(page)
    }
    assert set(told) == {(arm, rate) for arm, rates in lr_grid.RATES.items() for rate in rates}
    for (arm, rate), (validations, last) in told.items():
        made = lr_grid.run_of(arm, rate)
        # Of the base, which fits do not validate, the table has what the baselines found.
        assert lr_grid.validated(made)[-4:] == pytest.approx(validations[1:], abs=0.006)
        assert lr_grid.score(made) == pytest.approx(last, abs=6e-4)
    for arm, rates in lr_grid.RATES.items():
        best = max(rates, key=lambda rate: lr_grid.score(lr_grid.run_of(arm, rate)))
        assert rates[0] < best < rates[-1], "the next one beyond has to be tried"
        command = next(run.runs(["sums"], [arm], [0])).training()
        files = [yaml.safe_load(Path(word).read_text()) for word in command if word.endswith(".yaml")]
        if arm == "es":
            assert files[0]["model"]["optimizer"]["init_args"]["lr"] == best
        else:
            assert settings_of(command).lr == best


def settings_of(command: list[str]) -> BaselineSettings:
    """The settings in the config files and options of a baseline's command."""
    assert command[0] == "baseline"
    files = [yaml.safe_load(Path(word).read_text()) for word in command if word.endswith(".yaml")]
    found = {name: value for each in files for name, value in each.get("baseline", {}).items()}
    options = dict(zip(command, command[1:], strict=False))
    prefix = "--baseline."
    found |= {
        name.removeprefix(prefix): json.loads(value)
        for name, value in options.items()
        if name.startswith(prefix)
    }
    return BaselineSettings(**found)


@pytest.mark.slow
@pytest.mark.parametrize("task", reproduce_gpu.TASKS)
def test_so_are_those_for_gpus_and_all_have_as_many_rollouts(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in reproduce_gpu.runs([task], run.ARMS, [2], generations=100, devices=1):
        command = each.training()
        if each.arm in BASELINES:
            settings = settings_of(command)
            settings.check_batch(200)
            assert settings.updates * settings.group * 200 == 600_000
            continue
        config = parse(monkeypatch, *command).fit
        rollouts = config.model.population * config.data.prompts_per_generation * config.trainer.max_steps
        assert (rollouts, config.model.sigma) == (600_000, 0.001)


def test_a_baseline_has_one_gpu_and_the_seed_of_its_fit() -> None:
    es, grpo = reproduce_gpu.runs(["gsm8k-3b"], ["es", "grpo"], [2], generations=100, devices=8)
    options = [dict(pairwise(each.training())) for each in (es, grpo)]
    assert [each["--trainer.devices"] for each in options] == ["8", "1"]
    assert [each["--seed_everything"] for each in options] == ["2", "2"]
    assert settings_of(grpo.training()).seed is None, "it takes that of --seed_everything"


@pytest.mark.parametrize("arm", BASELINES)
@pytest.mark.parametrize("size", ["1.5B", "3B"])
def test_a_baseline_fits_on_one_gpu_beside_the_engine(arm: str, size: str) -> None:
    [each] = reproduce_gpu.runs([f"countdown-{size.lower()}"], [arm], [0], generations=100, devices=1)
    settings, model, longest = settings_of(each.training()), published_size(f"Qwen2.5-{size}"), 256 + 1024
    trl = needed(model, settings, length=longest, halved=True).total
    options = yaml.safe_load((ROOT / "results" / "gpu" / "arms" / f"{arm}.yaml").read_text())
    takes = Engine(cache_gib=options["model"]["engine"]["init_args"]["kv_cache_gib"])
    beside = Case(
        size_for(model, GaussianNoise(), torch.bfloat16),
        *(GPUS["h200"], takes, 0.0, 200, longest, longest, longest),
    )
    assert not beside.problems()
    assert trl + beside.total < 0.95 * GPUS["h200"].memory


def test_a_short_trial_does_not_count_as_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce_gpu, "HERE", tmp_path)
    arms, ended = ["es", "grpo", "mezo"], []
    for generations in (100, 500):
        runs = list(reproduce_gpu.runs(["gsm8k-3b"], arms, [0], generations, devices=1))
        ended.append([each.trained for each in runs])
        for each in runs:
            assert each.kept.parent.name == f"runs-{generations}"
            assert each.folder.parent.name == f"results-gpu-{generations}"
            each.kept.mkdir(parents=True)
            (each.kept / "summary.json").write_text("{}")
        assert all(each.trained for each in runs)
    assert ended == [[False] * 3] * 2


def test_the_estimate_is_the_published_one_and_counts_nothing_twice() -> None:
    [es, grpo] = reproduce_gpu.runs(["countdown-3b"], ["es", "grpo"], [0], generations=250, devices=1)
    assert reproduce_gpu.gpu_hours(es, 250) == 4 * 8 / 2
    assert reproduce_gpu.gpu_hours(grpo, 250) == 20 * 8 / 2
    assert "96.0, 288 dollars" in reproduce_gpu.estimate([es, grpo], 250, 3.0)


@pytest.mark.parametrize("options", [[], ["--list"], ["--go"]])
def test_nothing_is_run_without_a_gpu_or_unasked(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["reproduce_gpu", "--seeds", "0", *options])
    if "--go" in options:
        with pytest.raises(SystemExit):
            reproduce_gpu.main()
        assert "PyTorch sees no GPU" in capsys.readouterr().err
    else:
        reproduce_gpu.main()


@pytest.mark.parametrize("name", ["capitals", "kinds"])
def test_prior_tasks_have_enough_problems(name: str) -> None:
    task = MultipleChoice("own", str(ROOT / "results" / "prior" / f"{name}.jsonl"), mode="loglikelihood")
    task.prepare()
    prompts = task.problems("test")
    assert len(prompts) >= 200
    assert len({prompt.text for prompt in prompts}) == len(prompts)


def test_a_stopped_run_goes_on_and_one_that_has_ended_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(run.SUITE, work=tmp_path / "work", kept=tmp_path / "kept")
    each = Run(here, "sums", "es", 0)
    each.folder.mkdir(parents=True)
    assert "--ckpt_path" not in each.training()
    for name in ("journal.jsonl", "summary.json", "evaluations.jsonl", "model.safetensors"):
        (each.folder / name).write_text(name)
    assert each.training()[-2:] == ["--ckpt_path", "last"]
    called: list[list[str]] = []

    def stands_in(command: list[str], check: bool) -> None:
        assert check
        called.append(command[3:])
        if command[3] == "analyze":
            (each.folder / "analysis.json").write_text("{}")

    monkeypatch.setattr(subprocess, "run", stands_in)
    wanted = [each.training(), each.analysis()]
    each.complete()
    assert called == wanted
    assert each.ended
    kept = {path.name for path in each.kept.iterdir()}
    assert kept == {"journal.jsonl", "summary.json", "evaluations.jsonl", "analysis.json"}
    each.complete()
    assert called == wanted, "nothing is done twice"
    (each.kept / "analysis.json").unlink()
    shutil.rmtree(each.folder)  # as in a fresh clone
    each.complete()
    assert called[2:] == [each.analysis()]
    assert (each.folder / "journal.jsonl").exists(), "the model is made again from it"


# Long runs


def recorded(folder: Path, rewards: list[float]) -> Path:
    """A run's validations after every second generation, one prompt each."""
    lines = [
        {
            "step": 2 * index,
            "split": "val",
            "prompts": ["a"],
            "rewards": [reward],
            "scores": {},
            "tokens": 1,
            "cost": {"rollouts": 0, "tokens": 0, "seconds": 0.0, "flops": 0.0},
            "samples": [],
            "centre": str(index),
        }
        for index, reward in enumerate(rewards)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_peak_is_a_stretch_and_no_lucky_point(tmp_path: Path) -> None:
    rewards = [0.1, 0.9, 0.1, 0.1, 0.4, 0.5, 0.6, 0.5, 0.4, 0.2, 0.1]
    assert long_runs.peak_of(recorded(tmp_path, rewards)) == 12


def test_the_peaks_centre_is_that_of_the_generation_that_is_replayed() -> None:
    folder = Path("results/runs/long-4")
    peak = long_runs.peak_of(folder)
    [validated] = [each for each in read_evaluations(folder) if (each.step, each.split) == (peak, "val")]
    entries = {entry.generation: entry for entry in read_journal(folder / "journal.jsonl")[1]}
    assert entries[peak - 1].checksum == validated.centre


@pytest.mark.parametrize(("rising", "peak", "left"), [(80, 154, 46), (60, 114, 60)])
def test_branches_start_at_the_peak_and_end_no_later_than_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rising: int, peak: int, left: int
) -> None:
    monkeypatch.setattr(long_runs, "WORK", tmp_path / "work")
    monkeypatch.setattr(long_runs, "KEPT", tmp_path / "kept")
    called: list[list[str]] = []

    def stands_in(arguments: list[str]) -> None:
        called.append(arguments)
        if arguments[0] == "replay":
            Path(arguments[-1]).mkdir()
            return
        folder = Path(arguments[arguments.index("--trainer.default_root_dir") + 1])
        recorded(folder, [index / 100 for index in range(rising)] + [0.1] * (101 - rising))
        (folder / "summary.json").write_text("{}")

    monkeypatch.setattr(long_runs, "run_command", stands_in)
    monkeypatch.setattr(sys, "argv", ["long_runs", "--populations", "4"])
    long_runs.main()
    assert [each[0] for each in called] == ["fit", "replay", "fit", "fit", "fit"]
    assert called[1][called[1].index("--generation") + 1] == str(peak - 1), "generations count from 0"
    for arguments in called[2:]:
        config = parse(monkeypatch, *arguments).fit
        assert config.trainer.max_steps == left
    assert config.model.lr_scheduler.init_args.T_max == left
    assert config.model.sigma_schedule.init_args.generations == left
    monkeypatch.setattr(sys, "argv", ["long_runs", "--populations", "4"])
    long_runs.main()
    assert len(called) == 5, "nothing is done twice"


@pytest.mark.parametrize("task", ["sums"])
def test_the_table_of_a_task_is_on_the_page_and_is_what_its_runs_gave(task: str) -> None:
    page = Path("docs/results.md").read_text(encoding="utf-8")
    head, _, *lines = table.reached(task).splitlines()
    assert f"{head}\n" in page, f"python -m results.table --task {task}"
    told = page[page.index(head) :].split("\n\n")[0].splitlines()[2:]
    assert told == lines, f"python -m results.table --task {task}"
    rows = [dict(zip(head.split(" | "), line.split(" | "), strict=True)) for line in lines]
    tested = {row["| arm"]: evaluated_tests(task, row) for row in rows}
    [of_es] = [tests for arm, tests in tested.items() if arm == "| `es`"]
    seconds = np.mean([tests[-1].cost.seconds for tests in of_es])
    for row in rows:
        runs = tested[row["| arm"]]
        ends = [np.mean(tests[-1].rewards) for tests in runs]
        rollouts = runs[0][-1].cost.rollouts
        assert list(map(float, row["each seed"].split(", "))) == pytest.approx(ends, abs=6e-4)
        for column, expected in {
            "base": np.mean([np.mean(tests[0].rewards) for tests in runs]),
            "half the rollouts": mean_within(runs, rollouts / 2, inf),
            "all rollouts": np.mean(ends),
            "in the seconds of `es`": mean_within(runs, inf, seconds * (1 + SLACK)),
            "seconds |": np.mean([tests[-1].cost.seconds for tests in runs]),
        }.items():
            told_number = float(row[column].removesuffix(" |").replace(",", ""))
            assert told_number == pytest.approx(expected, abs=0.51 if column == "seconds |" else 6e-4)
        if row["| arm"] != "| `es`":
            gap = float(row["more than `es` (95 %)"].split()[0])
            assert gap == pytest.approx(
                np.mean(ends) - np.mean([np.mean(t[-1].rewards) for t in of_es]), abs=6e-4
            )


def test_a_table_without_runs_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "SUITE", replace(run.SUITE, kept=tmp_path))
    with pytest.raises(
        UsageError, match="no run of es on sums has ended: python -m results.run --tasks sums"
    ):
        table.reached("sums")
    assert table.changed("sums") == ""


def evaluated_tests(task: str, row: dict[str, str]) -> list[list[RecordedEvaluation]]:
    """The tests of the runs of a row, run by run."""
    arm = row["| arm"].split("`")[1]
    folders = [Path(f"results/runs/{task}-{arm}-{seed}") for seed in row["seeds"].split(", ")]
    return [[each for each in read_evaluations(folder) if each.split == "test"] for folder in folders]


def mean_within(runs: list[list[RecordedEvaluation]], rollouts: float, seconds: float) -> float:
    """Mean reward of the runs' last tests within two limits."""
    last = [
        [e for e in tests if e.cost.rollouts <= rollouts and e.cost.seconds <= seconds][-1] for tests in runs
    ]
    return float(np.mean([np.mean(each.rewards) for each in last]))


@pytest.mark.parametrize(
    ("arm", "named"), [("grpo", "GRPO's change, of length 0.947"), ("es", "ES's change, of length 49.2")]
)
def test_the_rewards_along_changes_are_those_of_the_scans(arm: str, named: str) -> None:
    page = Path("docs/results.md").read_text(encoding="utf-8")
    tuned, chance = page[page.index(f"| along {named} |") :].splitlines()[:2]
    scanned = pd.read_csv(f"results/scans/{arm}/radial.csv")
    at = scanned.groupby([scanned.direction.str.split().str[0], "radius"]).reward.mean()
    assert numbers_in(tuned.split(" | ", 1)[1]) == pytest.approx([at["base"][0.0], *at["tuned"]], abs=6e-4)
    assert numbers_in(chance.split(" | ", 1)[1]) == pytest.approx([at["base"][0.0], *at["random"]], abs=6e-4)
    assert f"{scanned.distance[scanned.radius == 1.0].iloc[0]:.3g}" in named


def test_further_along_es_s_change_more_is_solved() -> None:
    page = Path("docs/results.md").read_text(encoding="utf-8")
    lines = Path("results/scans/es/radial.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    points = [(row["place"], row["rewards"]) for row in map(json.loads, lines)]
    once, twice = (
        next(rewards for place, rewards in points if place == {"direction": "tuned", "radius": radius})
        for radius in (1.0, 2.0)
    )
    limits = ttest_rel(twice, once).confidence_interval()
    more = np.mean(twice) - np.mean(once)
    assert f"{more:.3f} more ({limits.low:.3f} to {limits.high:.3f}, paired by problem)" in page


def numbers_in(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", text)]


def test_what_the_pages_say_of_the_long_run_is_what_its_files_say() -> None:
    """docs/results.md and docs/callbacks.md: rise, decay, the alarm, and the curve of the theory."""
    folder = Path("results/runs/long-4")
    validated = [each for each in read_evaluations(folder) if each.split == "val"]
    rewards = {each.step: sum(each.rewards) / 64 for each in validated}
    table = {10: 0.56, 20: 0.55, 40: 0.58, 60: 0.64, 80: 0.48, 100: 0.34, 126: 0.14, 160: 0.38, 200: 0.16}
    assert {step: rewards[step] for step in table} == pytest.approx(table, abs=0.006)
    watch = PeakWatch(1.0, False, false_alarm_rate=0.05)
    alarms = [watch.add(each.step, rewards[each.step], each.rewards)[1] for each in validated]
    first = next(alarm for alarm in alarms if alarm is not None)
    assert (first["generation"], first["peak"]) == (90, 60)
    run = fitted_run(*read_journal(folder / "journal.jsonl"), list(rewards.items()))
    assert run.judged.modes is not None
    assert run.judged.modes.interval == pytest.approx((11, 38), abs=0.5)
    assert "the end of the decay is not in sight" in run.reason


def test_what_the_pages_say_of_the_branch_without_learning_is_what_its_files_say() -> None:
    """docs/results.md: shares of 64 problems beside those of the run that went on."""
    shares = {}
    for name, first in (("long-4", 0), ("long-4-shuffled", 59)):
        validated = [e for e in read_evaluations(Path("results/runs") / name) if e.split == "val"]
        shares[name] = {first + each.step: sum(each.rewards) / 64 for each in validated}
    steps = (60, 64, 68, 72, 76, 84, 100, 116, 200)  # of the run; the branch is validated one later
    told = {
        "long-4-shuffled": (0.66, 0.58, 0.52, 0.38, 0.25, 0.08, 0.05, 0.00, 0.02),
        "long-4": (0.64, 0.64, 0.61, 0.52, 0.48, 0.50, 0.34, 0.34, 0.16),
    }
    for name, row in told.items():
        later = name == "long-4-shuffled"
        assert [shares[name][step + later] for step in steps] == pytest.approx(row, abs=0.006)
    kept = json.loads(Path("results/runs/long-4-shuffled/tables/early_peak.json").read_text())
    assert kept["alarms"][0]["generation"] - kept["alarms"][0]["peak"] == 14
    assert long_runs.peak_of(Path("results/runs/long-4")) == 58


def test_the_seconds_of_the_page_are_those_of_the_journals() -> None:
    """docs/results.md: seconds of training are what `compare` counts, without validations."""
    page = Path("docs/results.md").read_text(encoding="utf-8")
    told = {
        "older/sums-es-0": "344 s of training",
        "runs/long-4": "33 minutes",
        "runs/long-4-shuffled": "18 minutes",
    }
    for name, words in told.items():
        entries = read_journal(Path("results") / name / "journal.jsonl")[1]
        seconds = sum(map(seconds_of, entries))
        unit = 60 if words.endswith("minutes") else 1
        assert int(words.split()[0]) == round(seconds / unit)
        assert words in page
    assert "43.0 s a generation" in page


@pytest.mark.parametrize(
    ("min_drop", "by_prompt", "by_curve"),
    [
        (0.0, 70, 142),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((0.05, 80, 154), (0.1, 94, 200))),
    ],
)
def test_more_prompts_notice_the_long_run_s_fall_sooner(
    min_drop: float, by_prompt: int, by_curve: int
) -> None:
    """The table in docs/callbacks.md, and delays of at most a third of the curve's test."""
    kept = json.loads(Path("results/held_out/long-4/tables/early_peak.json").read_text())
    best = max(kept["points"], key=lambda point: point["value"])["generation"]
    assert best == 64
    paired, curve = PairedPeakTest(310, min_drop=min_drop), PeakTest(horizon=128, min_drop=min_drop)
    values, fallen, fallen_curve = list[float](), list[int](), list[int]()
    for point in kept["points"]:
        values.append(point["value"])
        if paired.add(point["prompts"]).alarm:
            fallen.append(point["generation"])
        if curve(values).alarm:
            fallen_curve.append(point["generation"])
    assert fallen_curve[0] == by_curve
    assert [at for at in fallen if at < best] == ([32, 34, 36, 38] if min_drop == 0 else [])
    assert next(at for at in fallen if at > best) == by_prompt
    assert by_prompt - best <= (by_curve - best) / 3
