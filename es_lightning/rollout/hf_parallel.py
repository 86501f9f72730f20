"""Tensor parallelism for the transformers engine: k consecutive ranks hold one copy of a model together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, distributed

from es_lightning.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def split(model: PreTrainedModel, size: int) -> None:
    """Split a model's matrices over the ranks of this one's lane, by the model's own plan.

    What its parameters held is lost: load weights before generating.

    Raises:
        UsageError: the model brings no plan.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    if not model.supports_tp_plan:
        raise UsageError(
            f"{type(model).__name__} has no tensor-parallel plan in transformers: use tensor_parallel_size "
            "1, or VLLMEngine."
        )
    lanes = distributed.get_world_size() // size
    mesh = init_device_mesh(model.device.type, (lanes, size), mesh_dim_names=("lane", "rank"))
    apply_tensor_parallelism(model, mesh["rank"])
    model.tie_weights()  # a tied head has become a parameter of its own


def part_for(parameter: Tensor, tensor: Tensor) -> Tensor:
    """What this rank keeps of a whole tensor; nothing is sent, since every rank has the whole."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return tensor
    whole = tensor.to(parameter.device)
    part: Tensor = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return part
