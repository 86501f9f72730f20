"""Numbers out of bounds end in one sentence: exit code 2 where a setting is wrong, 1 where a run diverges."""

import json
from pathlib import Path

import pytest

from es_lightning.cli import main

SMOKE = str(Path(__file__).parents[2] / "configs" / "smoke_cpu.yaml")
LR = "--model.optimizer.init_args.lr"
SELDOM = pytest.mark.slow


@pytest.mark.parametrize(
    ("option", "value", "code", "words"),
    [
        ("--model.sigma", "1e30", 2, "sigma is 1e+30"),
        pytest.param("--model.sigma", ".inf", 2, "sigma is inf", marks=SELDOM),
        ("--model.sigma", ".nan", 2, "sigma is nan"),
        (LR, ".nan", 2, "the optimizer's lr is nan: give a finite number"),
        pytest.param(LR, ".inf", 2, "the optimizer's lr is inf: give a finite number", marks=SELDOM),
        (LR, "-1", 2, "the optimizer was refused (Invalid learning rate: -1"),
        ("--model.optimizer", "torch.optim.Muon", 2, "it takes matrices alone, and ES tunes all parameters"),
        (LR, "1e38", 1, "the update of generation 0 has ruined the centre"),
    ],
)
def test_numbers_out_of_bounds_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, code: int, words: str
) -> None:
    fit = ["fit", "-c", SMOKE, "--trainer.default_root_dir", str(tmp_path), "--trainer.logger", "false"]
    fit += ["--trainer.enable_progress_bar", "false", "--report.held_out", "false"]
    with pytest.raises(SystemExit) as stopped:
        main([*fit, option, value])
    assert stopped.value.code == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("es-lightning: ")
    assert words in said
    assert not list(tmp_path.glob("checkpoints/*")), "no broken centre is kept"
    if code == 1:
        lines = (tmp_path / "journal.jsonl").read_text().splitlines()
        assert "es_lightning_journal" in json.loads(lines[-1]), "the journal holds its header alone"
