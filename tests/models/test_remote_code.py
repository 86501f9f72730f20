"""A model that comes with its own code: an export of it comes with the code too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from es_lightning.errors import UsageError
from es_lightning.models import BaseModel
from es_lightning.models.embedded import tiny_folder

CODE = {
    "configuration_own.py": """
from transformers import LlamaConfig
class OwnConfig(LlamaConfig):
    model_type = "own"
""",
    "modeling_own.py": """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
from .parts_own import PART
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
""",
    "parts_own.py": "PART = 1",
    "train.py": "raise RuntimeError('no part of the model')",
}
MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = Path(shutil.copytree(tiny_folder(), tmp_path / "base"))
    for name, text in CODE.items():
        (path / name).write_text(text)
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": MAP}
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_an_export_carries_the_code_and_loads(folder: Path, tmp_path: Path) -> None:
    base = BaseModel(folder, trust_remote_code=True)
    base.check()
    centre = base.load()
    assert type(centre).__name__ == "OwnForCausalLM"
    base.export(centre, tmp_path / "model", "")
    exported = {path.name for path in (tmp_path / "model").glob("*.py")}
    assert exported == {"configuration_own.py", "modeling_own.py", "parts_own.py"}
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", trust_remote_code=True, dtype=torch.float32
    )
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, centre(ids).logits, atol=0.05, rtol=0)  # bfloat16


def test_code_is_not_run_unless_it_is_trusted(folder: Path) -> None:
    with pytest.raises(UsageError, match="config.json of the model"):
        BaseModel(folder).check()


def test_code_that_leads_out_of_the_model_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("KEY = 1")
    (folder / "parts_own.py").unlink()
    (folder / "parts_own.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(UsageError, match=r"parts_own.py is a link to .*secret.py, outside the model"):
        BaseModel(folder, trust_remote_code=True).check()
