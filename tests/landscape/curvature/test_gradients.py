"""Gradients and products of the dense objective against autograd in float64 and against the engine's
rewards."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from es_lightning.algorithm.noise import FilteredNoise, GaussianNoise
from es_lightning.algorithm.tensors import checksum
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation.parts import Parts
from es_lightning.evaluation.rollouts import Rollouts
from es_lightning.grading.scorer import Grading
from es_lightning.landscape.curvature.basis import MemoryBasis
from es_lightning.landscape.curvature.curvature import Pairs, curvature
from es_lightning.landscape.curvature.gradients import DenseObjective, HessianProduct, coordinates, direction
from es_lightning.landscape.curvature.lanczos import inner, lanczos, norm
from es_lightning.landscape.curvature.seed_space import SeedSpace
from es_lightning.models import BaseModel
from es_lightning.records import Member, Prompt
from es_lightning.rollout import HFEngine, Sampling
from es_lightning.tasks import Sums


@dataclass
class Opened:
    parts: Parts
    centre: nn.Module
    prompts: list[Prompt]

    @property
    def objective(self) -> DenseObjective:
        return DenseObjective(self.centre, self.prompts, batch=4)


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    data = TaskDataModule(Sums(), objective="log_likelihood", grading=Grading(workers=0))
    rollouts = Rollouts(HFEngine(dtype="float32"), Sampling(max_tokens=4))
    parts = Parts(BaseModel("tiny"), rollouts, data, GaussianNoise(), 0.02, 4, check_engine=False)
    with parts:
        prompts = parts.prompts("train", 6)
        yield Opened(parts, parts.start(), prompts)


def test_values_are_the_rewards_that_the_engine_gives(opened: Opened) -> None:
    opened.parts.rollouts.hold_centre(opened.centre)
    rewards = opened.parts.evaluator().evaluate(opened.prompts).rewards
    assert opened.objective.values() == pytest.approx(rewards, abs=1e-5)


class _Flat:
    """The same objective as a function of a flat vector in float64, for autograd's own second derivative."""

    def __init__(self, opened: Opened) -> None:
        self.model = deepcopy(opened.centre).double()
        self.model.get_input_embeddings().padding_idx = None  # its row is a token of the chat template
        self.model.set_attn_implementation("eager")  # the others have no second derivative
        self.shapes = {name: each.shape for name, each in self.model.named_parameters()}
        self.prompts = opened.prompts
        self.start = torch.cat([each.detach().reshape(-1) for each in self.model.parameters()])

    def __call__(self, flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        weights = {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        total = torch.zeros((), dtype=torch.float64)
        for prompt in self.prompts:
            [choice] = prompt.choices
            ids = torch.tensor([choice.token_ids])
            output = torch.func.functional_call(
                self.model, weights, kwargs={"input_ids": ids, "use_cache": False}
            )
            rows = output.logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            total = total + rows[-choice.scored :].mean() / len(self.prompts)
        return total


def test_gradient_and_product_are_those_of_autograd_in_float64(opened: Opened) -> None:
    flat = _Flat(opened)
    objective = opened.objective
    gradient = objective.gradient()
    assert not any(each.requires_grad for each in opened.centre.parameters())
    assert opened.centre.get_input_embeddings().padding_idx is not None, "put back as it was"
    vector = direction(GaussianNoise(), 7, objective.parameters).double()
    value, exact = torch.autograd.functional.hvp(flat, flat.start, vector)
    truth = torch.autograd.functional.jacobian(flat, flat.start)
    assert float(value) == pytest.approx(objective.values().mean(), abs=1e-5)
    assert norm(gradient - truth) < 1e-4 * norm(truth)
    before = checksum(opened.centre.named_parameters())
    product = HessianProduct(objective.gradient_at, norm(gradient))
    for scale in (1.0, 1e-4):
        found = product(scale * vector.float())
        assert norm(found - scale * exact) < 0.02 * norm(exact) * scale
    assert checksum(opened.centre.named_parameters()) == before


def test_a_stiff_and_a_flat_direction_get_a_radius_each() -> None:
    curvatures = torch.tensor([1e4, 1.0, 1e-4])
    product = HessianProduct(lambda unit, distance: torch.sin(distance * curvatures * unit), 1.0)
    for index in range(3):
        found = product(torch.eye(3)[index])
        assert float(found[index]) == pytest.approx(float(curvatures[index]), rel=0.01)


def test_pairs_through_the_engine_find_slope_and_curvature_of_the_model(opened: Opened) -> None:
    objective, parts = opened.objective, opened.parts
    gradient = objective.gradient()
    product = HessianProduct(objective.gradient_at, norm(gradient))
    members = [Member(2 * k + side, 100 + k, 1 - 2 * side) for k in range(12) for side in (0, 1)]
    pairs = {}
    for sigma in (1e-4, 5e-4):  # slopes bend at the larger one, second differences drown at the smaller one
        outcome = parts.evaluator().members(opened.centre, members, parts.noise, sigma, opened.prompts)
        rewards = outcome.rewards.numpy()
        pairs[sigma] = Pairs(rewards[::2], rewards[1::2], objective.values(), sigma)
    directions = [direction(parts.noise, 100 + k, objective.parameters) for k in range(12)]
    basis = MemoryBasis()
    basis.append(gradient)
    along = coordinates(basis, 1, iter(directions))[:, 0]
    assert pairs[1e-4].slopes.mean(axis=1) == pytest.approx(along, abs=0.05 * along.std())
    square = inner(gradient, gradient)
    ratio = curvature(pairs[1e-4]).odd_ratio(square)
    assert ratio.value == pytest.approx(np.mean(along**2) / square, rel=0.1)
    bends = [inner(each, product(each)) for each in directions[:4]]
    measured = pairs[5e-4].bends.mean(axis=1)
    assert measured[:4] == pytest.approx(bends, abs=0.4 * float(np.std(measured)))


def test_filtered_noise_restricts_vectors_to_what_it_perturbs(opened: Opened) -> None:
    noise = FilteredNoise(exclude=["*embed*", "*norm*"])
    part = DenseObjective(opened.centre, opened.prompts, noise)
    assert 0 < part.dimension < opened.objective.dimension
    assert len(part.gradient()) == part.dimension == len(direction(noise, 1, part.parameters))


def test_lanczos_finds_the_top_of_the_models_hessian(opened: Opened) -> None:
    objective = opened.objective
    product = HessianProduct(objective.gradient_at, norm(objective.gradient()))
    start = direction(GaussianNoise(), 3, objective.parameters)
    found = lanczos(product, start, 8)
    assert found.asymmetry < 0.05
    values, _, vectors = found.ritz
    top = int(np.abs(values).argmax())
    assert found.residuals[top] < 0.2 * abs(values[top])


def test_open_prompts_have_no_gradient(opened: Opened) -> None:
    with pytest.raises(UsageError, match="data.objective log_likelihood"):
        DenseObjective(opened.centre, [Prompt("a", "What is 1 + 1?", 2)])


def test_points_of_the_seeds_span_are_members_where_one_weight_is_sigma(opened: Opened) -> None:
    parts = opened.parts
    before = checksum(opened.centre.named_parameters())
    space = SeedSpace(parts.evaluator(), opened.centre, parts.noise, [5, 6, 7], 0.02, opened.prompts)
    members = [Member(0, 6), Member(1, 6, -1)]
    rewards = (
        parts.evaluator().members(opened.centre, members, parts.noise, 0.02, opened.prompts).rewards.numpy()
    )
    for sign, row in zip((1, -1), rewards, strict=True):
        assert space.point(np.array([0.0, sign * 0.02, 0.0])) == pytest.approx(row, abs=1e-5)
    assert space.point(np.zeros(3)) == pytest.approx(opened.objective.values(), abs=1e-5)
    around = space.members(np.array([0.0, -0.02, 0.0]))  # the second member is back at the centre
    assert around[1] == pytest.approx(opened.objective.values().mean(), abs=1e-5)
    assert checksum(opened.centre.named_parameters()) == before
