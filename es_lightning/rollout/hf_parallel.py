"""Tensor parallelism for the transformers engine: the ranks of a lane hold one copy of a model together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, distributed

from es_lightning.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def split(model: PreTrainedModel, size: int) -> None:
    """Split a model's matrices over the ranks of this rank's lane, by the model's own plan.

    A lane is ``size`` consecutive ranks. The parameters lose their values: load weights before generating.

    Raises:
        UsageError: the model has no plan.
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
    model.tie_weights()  # the split has made a tied head a parameter of its own


def part_for(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor; nothing is sent, since every rank has the whole."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return tensor
    whole = tensor.to(parameter.device)
    # src_data_rank=None: cut locally, without a broadcast from the first rank.
    part: Tensor = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return part
