"""What vLLM leaves out of a reload is named, and tensors go to it as its loaders want them."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from es_lightning.errors import UsageError
from es_lightning.rollout.checkpoint_form import CheckpointForm
from es_lightning.rollout.own_classes import own_classes
from es_lightning.rollout.vllm_reload import reload
from tests.helpers.families import FAMILIES

pytestmark = pytest.mark.vllm


class Experts(nn.Linear):
    """A layer of its own class."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head, self.experts = nn.Embedding(4, 2), nn.Linear(2, 4), Experts(2, 2)
        self.head.weight, self.head.bias = self.embedding.weight, None


class LLM:
    """A vLLM whose reload leaves out layers of some classes."""

    def __init__(self, unloaded: list[str]) -> None:
        self.model, self.unloaded, self.got = Model(), unloaded, list[tuple[str, Tensor]]()
        self.log = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")

    def collective_rpc(self, name: str, kwargs: dict[str, Any]) -> None:
        assert name == "reload_weights"
        self.got = list(kwargs["weights_iterator"])
        for kind in self.unloaded:
            self.log.warning("%s: Failed to load weights", kind)

    def apply_model(self, function: Any) -> list[Any]:
        return [function(self.model)]


def test_a_layer_that_got_no_weights_of_its_own_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match=r"left experts\.weight, experts\.bias as before .* HFEngine"):
        reload(LLM(["Linear", "Experts"]), "llama", [])
    assert not [record for record in caplog.records if "reload" in record.name]


def test_a_tied_head_and_layers_without_parameters_are_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    llm = LLM(["Linear", "RotaryEmbedding"])
    reload(llm, "llama", [("w", torch.ones(1))])
    assert [name for name, _ in llm.got] == ["w"]
    assert not [record for record in caplog.records if "reload" in record.name]


def test_the_experts_of_gpt_oss_go_one_by_one_and_its_sinks_afterwards() -> None:
    llm, late = LLM([]), list[str]()
    llm.model.load_weights = lambda named: late.extend(name for name, _ in named)  # type: ignore[assignment]
    named = [
        ("layers.0.self_attn.sinks", torch.ones(4)),
        ("layers.0.mlp.experts.gate_up_proj", torch.arange(6.0).view(2, 1, 3)),
        ("layers.0.mlp.experts.down_proj_bias", torch.ones(2, 3)),
        ("layers.0.mlp.router.weight", torch.ones(2, 3)),
    ]
    reload(llm, "gpt_oss", named)
    assert [name for name, _ in llm.got] == [
        "layers.0.mlp.experts.0.gate_up_proj",
        "layers.0.mlp.experts.1.gate_up_proj",
        "layers.0.mlp.experts.0.down_proj_bias",
        "layers.0.mlp.experts.1.down_proj_bias",
        "layers.0.mlp.router.weight",
    ]
    assert torch.equal(llm.got[1][1], torch.tensor([[3.0, 4.0, 5.0]]))
    assert late == ["layers.0.self_attn.sinks"]


def test_experts_get_the_names_and_shapes_of_a_checkpoint() -> None:
    family = FAMILIES["Mixtral"]
    config = AutoConfig.for_model(family.kind, **{**family.common, **family.options})
    model = AutoModelForCausalLM.from_config(config)
    named = dict(CheckpointForm(config)((name, tensor) for name, tensor in model.named_parameters()))
    first = "model.layers.1.block_sparse_moe.experts.3"
    fused = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj")
    assert torch.equal(torch.cat([named[f"{first}.w1.weight"], named[f"{first}.w3.weight"]]), fused[3])
    assert "model.layers.1.block_sparse_moe.gate.weight" in named
    assert not any(".mlp." in name for name in named)


def test_a_model_without_a_mapping_streams_as_it_is() -> None:
    config = AutoConfig.for_model("llama", **FAMILIES["Llama"].common)
    named = [("b", torch.ones(1)), ("a", torch.zeros(1))]
    assert list(CheckpointForm(config)(iter(named))) == named


class Plain(nn.Module):
    """Stands for a class of transformers."""

    def forward(self) -> str:
        return "plain"


class Compiled:
    """What vLLM adds."""


def changed(self: Any, *args: Any, **options: Any) -> str:
    return "changed"


def test_changes_to_a_class_stay_with_the_model_that_they_were_made_for() -> None:
    centre, started, bases = Plain(), Plain(), Plain.__bases__
    with own_classes(nn.Sequential(centre)) as separate:
        Plain.__bases__ = (*bases, Compiled)
        Plain.__call__ = changed  # type: ignore[method-assign]
        separate(nn.Sequential(started))
    assert (Plain.__bases__, centre(), Plain()()) == (bases, "plain", "plain")
    assert started() == "changed"
    assert isinstance(started, Plain)
    assert isinstance(started, Compiled)
