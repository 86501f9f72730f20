"""The progress bar: how fast a run is, what it shows in a terminal, and its lines where there is none."""

import logging
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from es_lightning.callbacks import GenerationBar, RunReport
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation import Progress, Stage
from es_lightning.grading.scorer import Grading
from es_lightning.records import Prompt
from es_lightning.system.stopwatch import Pace
from es_lightning.task import Reward
from tests.helpers.fits import Letters, module, trainer


class Constant(Letters):
    """Earns the same whatever the completion says."""

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        return 1.0


def test_the_first_members_promise_the_time_that_is_left() -> None:
    pace = Pace()
    assert pace.left(3, now=0.0) is None
    pace.begin(100.0)
    assert pace.left(3, now=104.0) is None, "no member is done"
    pace.share = 0.25
    assert pace.per_generation(104.0) == 16.0
    assert pace.left(3, now=104.0) == 3 * 16 - 4
    assert pace.end(120.0) == 20.0
    assert pace.left(2, now=120.0) == 40.0
    pace.begin(125.0)  # a validation took five seconds
    assert pace.left(2, now=130.0) == 30.0
    assert pace.left(2, now=200.0) == 20.0, "a slow generation does not make the rest shorter"
    assert pace.end(150.0) == 30.0
    assert pace.per_generation(150.0) == 30.0, "the first one does not count any more"
    pace.end(160.0)
    assert pace.per_generation(160.0) == 20.0


def test_a_generation_from_the_journal_has_no_pace() -> None:
    pace = Pace()
    pace.begin(0.0)
    pace.end(0.1, counts=False)
    assert pace.per_generation(1.0) is None
    pace.begin(0.1)
    pace.end(10.1)
    assert pace.per_generation(11.0) == 10.0


def _shown(bar: GenerationBar, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(bar._render())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("large", [False, True])
def test_the_bar_keeps_its_width(monkeypatch: pytest.MonkeyPatch, width: int, large: bool) -> None:
    bar = GenerationBar()
    run: Any = type("Run", (), {"num_training_batches": 30000 if large else 6, "global_rank": 0})
    monkeypatch.setattr(bar, "_trainer", run)
    shown = [_shown(bar, width)]
    bar.pace.begin(0.0)
    bar._hear(Progress(3, 300, 12345, 123456, lanes=8) if large else Progress(12, 16, 384, 512))
    shown.append(_shown(bar, width))
    bar.done, bar.skipped = 5, 2
    bar._metrics = {"reward/mean": -1.2345678e-5 if large else -103.51, "reward/max": 1.0}
    bar._metrics["time/tokens_per_s"] = 41234.5 if large else 412.3
    shown.append(_shown(bar, width))
    assert all(len(lines) == 2 for lines in shown)
    assert {len(above) for above, _ in shown} == {width}
    assert all(len(below) <= width for _, below in shown)
    assert ("rank 0: member 3/300, graded   9 %" if large else "member 12/16, graded  75 %") in shown[1][1]
    assert shown[2][0].startswith(f"generation 6/{30000 if large else 6}, 2 skipped")
    assert "reward" in shown[2][1]


def run(tmp_path: Path, task: Letters, bar: GenerationBar, *others: Any) -> Any:
    tuned = module()
    fit = trainer(tmp_path, 3, others, val_check_interval=2)
    fit.callbacks.append(bar)
    fit.fit(tuned, TaskDataModule(task, grading=Grading(workers=0)))
    return tuned


def test_without_a_terminal_each_generation_has_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = run(tmp_path, Letters(), GenerationBar(), RunReport())
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("generation ")]
    number = r"-?\d[\d.e+-]*"
    line = rf"generation (\d)/3: reward {number}, max {number}, {number} tokens/s, {number} s, 0:00:\d\d left"
    assert [match[1] for text in lines if (match := re.fullmatch(line, text))] == ["1", "2", "3"], out
    assert re.search(rf"^validation after generation 2/3: reward {number}, {number} s$", out, re.MULTILINE)
    stages = ["loading tiny as the first centre ...", "starting HFEngine with tiny ..."]
    stages += ["evaluating 4 held-out prompts ...", f"writing the model to {tmp_path / 'model'} ..."]
    assert all(stage in out for stage in stages)
    assert out.count("evaluating 4 held-out prompts ...") == 2
    heard: list[Any] = []
    tuned.rollouts.announcer.listen(heard.append)
    tuned.rollouts.announcer.tell(Stage("x"))
    assert heard == [Stage("x")]
    assert capsys.readouterr().out == "", "the bar does not listen after its run"


@pytest.mark.slow
def test_skipped_generations_are_counted_and_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    bar, report = GenerationBar(), RunReport(export=False)
    with caplog.at_level(logging.WARNING):
        run(tmp_path, Constant(), bar, report)
    assert bar.skipped == 3
    warnings = [record.message for record in caplog.records if "skipped" in record.message]
    assert len(warnings) == 1, "the first one is explained, the others are counted"
    assert warnings[0].startswith("Generation 0 is skipped, the centre stays as it is: all 4 members earned")
    out = capsys.readouterr().out
    assert out.count("skipped, since all members earned the same") == 3
    assert "the model is still the base model" in " ".join(out.replace("│", " ").split())
    assert report.summary is not None
    assert report.summary["skipped_generations"] == 3


def test_a_long_stage_says_how_long_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    bar = GenerationBar()
    bar._console = Console(highlight=False)
    for seconds in (None, 0.2, 61.24):
        bar._hear(Stage("starting the engine", seconds))
    assert capsys.readouterr().out == "starting the engine ...\nstarting the engine took 61.2 s\n"


@pytest.mark.slow
def test_nothing_is_shown_at_a_rate_of_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, Letters(), GenerationBar(refresh_rate=0))
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match=r"GenerationBar\.refresh_rate is -1"):
        GenerationBar(refresh_rate=-1)


def test_a_bar_in_a_terminal_is_drawn_and_taken_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    bar = GenerationBar()

    class EachEvent(Callback):
        """Draws the bar whenever it is about to hear of something, however fast the machine is."""

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            pl_module.rollouts.announcer.listen(lambda _: bar._live and bar._live.refresh())

    run(tmp_path, Letters(), bar, EachEvent())
    out = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    assert "generation 1/3" in out
    assert "member 0/4, graded   0 %" in out
    assert re.search(r"generation 3/3 \S+ +[\d.]+ s each, 0:00:00 left", out)
    assert bar._live is None
