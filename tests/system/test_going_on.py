"""What errors advise: a fit is resumed, other commands are given again."""

from pathlib import Path

import pytest

from es_lightning.cli import entry
from es_lightning.cli.entry import main
from es_lightning.system.files import replacing
from es_lightning.system.going_on import RESUME, going_on_by, how_to_go_on


def fails(*_: object) -> None:
    """As a command that cannot write does: there is a file where a folder should be."""
    with replacing(Path(__file__) / "report.md") as file:
        file.write(b"x")


def test_the_advice_is_a_fits_again_after_a_command_that_failed() -> None:
    def failing() -> None:
        with going_on_by("wait"):
            raise RuntimeError(how_to_go_on())

    with pytest.raises(RuntimeError, match="wait"):
        failing()
    assert how_to_go_on() == RESUME


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("probe", "then give the command again."),
        ("tune-step", "then give the command again."),
        ("baseline", "then give the command again, with --overwrite true."),
        ("fit", "then resume with --ckpt_path last."),
        ("test", "then give the command again."),
    ],
)
def test_a_file_that_cannot_be_written_leads_to_advice_that_fits_the_command(
    command: str, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if command in entry.LIGHT:
        monkeypatch.setitem(entry.LIGHT, command, fails)
    else:
        monkeypatch.setattr("es_lightning.cli.command_line.run", fails)
    with pytest.raises(SystemExit) as stopped:
        main([command, "-c", "demo.yaml"])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "report.md could not be written" in said
    assert advice in said
    assert how_to_go_on() == RESUME
