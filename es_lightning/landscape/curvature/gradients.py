"""Gradients and Hessian-vector products of the log-likelihood of right answers, by autograd, in float32.

The objective is that of ``es_lightning.tasks.LogLikelihood``: R = 1/P sum_p 1/T_p sum_t log p(y_t | x,
y_<t), in nats per token. Products are central differences of gradients, H v ~= (g(theta + r v) - g(theta -
r v)) / (2 r): two gradients each, half of the time and an eighth of the memory of differentiating twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from es_lightning.algorithm.noise import Noise
from es_lightning.errors import UsageError
from es_lightning.landscape.arrays import Array
from es_lightning.landscape.curvature.basis import Basis
from es_lightning.landscape.curvature.lanczos import inners, norm
from es_lightning.records import Prompt

log = logging.getLogger(__name__)

WANTED = 0.01
"""Of the gradient's length, what the radius of a product should change of it: well above the rounding of
float32, about 1e-5, and small enough to be linear."""
ACCEPTED = (1e-3, 0.1)
TRIES = 6
AT_ONCE = 4
"""Directions in memory at once, while every vector of a basis is read for them."""


class DenseObjective:
    """The mean log-likelihood of right answers under a model, and its derivatives.

    Args:
        model: a causal language model of transformers in float32. Its weights are moved for products, and put
            back bit for bit.
        prompts: P encoded prompts with one choice each, the right answer.
        noise: vectors hold the parameters that it perturbs, in the order of ``named_parameters``; None
            takes all.
        per_token: whether the log-probability of an answer is divided by the number of its tokens.
        batch: prompts that go through the model at once.

    Raises:
        UsageError: a prompt has no right answer to be scored.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Prompt],
        noise: Noise | None = None,
        per_token: bool = True,
        batch: int = 16,
    ) -> None:
        wrong = next(
            (each.id for each in prompts if len(each.choices) != 1 or not each.choices[0].scored), None
        )
        if wrong is not None:
            raise UsageError(
                f"prompt {wrong} has no right answer with a log-likelihood: gradients need data.objective "
                "log_likelihood."
            )
        self.model, self.prompts, self.per_token, self.batch = model, list(prompts), per_token, batch
        self.parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if noise is None or noise.perturbs(name, parameter.shape)
        }
        self._kept: dict[str, Tensor] = {}

    @property
    def dimension(self) -> int:
        """Number D of weights that a vector has."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @torch.no_grad()
    def values(self) -> Array:
        """Return the objective of each prompt, float64 [P], in nats."""
        return np.concatenate([rows.double().numpy() for rows in self._values()])

    def gradient(self) -> Tensor:
        """Return the gradient of the mean over prompts, flat float32 [D]."""
        total = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        with self._differentiable():
            for rows in self._values():
                parts = torch.autograd.grad(
                    rows.sum() / len(self.prompts), list(self.parameters.values()), allow_unused=True
                )
                for name, part in zip(total, parts, strict=True):
                    if part is not None:
                        total[name] += part
                del parts
        return torch.cat([part.reshape(-1) for part in total.values()])

    @contextmanager
    def _differentiable(self) -> Iterator[None]:
        """Let autograd see all parameters, and all rows of embeddings.

        An embedding gives no gradient to the row of ``padding_idx``. Where padding and the end of a turn are
        one token, as in SmolLM2, that row is a part of every chat prompt.
        """
        embeddings = [each for each in self.model.modules() if isinstance(each, nn.Embedding)]
        rows = [each.padding_idx for each in embeddings]
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        for each in embeddings:
            each.padding_idx = None
        try:
            yield
        finally:
            for parameter in self.parameters.values():
                parameter.requires_grad_(False)
            for each, row in zip(embeddings, rows, strict=True):
                each.padding_idx = row

    def gradient_at(self, vector: Tensor, distance: float) -> Tensor:
        """Return the gradient at theta + distance * vector, flat [D]; theta is put back bit for bit."""
        if not self._kept:
            self._kept = {name: each.detach().clone() for name, each in self.parameters.items()}
        try:
            self._move(vector, distance)
            return self.gradient()
        finally:
            self._move(None, 0.0)

    @torch.no_grad()
    def _move(self, vector: Tensor | None, distance: float) -> None:
        place = 0
        for name, parameter in self.parameters.items():
            parameter.copy_(self._kept[name])
            if vector is not None:
                parameter.add_(
                    vector[place : place + parameter.numel()].view(parameter.shape), alpha=distance
                )
            place += parameter.numel()

    def _values(self) -> Iterator[Tensor]:
        """Yield the values of a few prompts at a time, in order."""
        device = next(iter(self.parameters.values())).device
        for first in range(0, len(self.prompts), self.batch):
            choices = [each.choices[0] for each in self.prompts[first : first + self.batch]]
            rows = [torch.tensor(choice.token_ids, device=device) for choice in choices]
            ids = pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(row) for row in rows], device=device)
            scored = torch.tensor([choice.scored for choice in choices], device=device)
            places = torch.arange(ids.shape[1], device=device)
            mask = places < lengths[:, None]
            logits = self._forward(ids, mask)[:, :-1].float()
            of_tokens = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
            counts = (places >= lengths[:, None] - scored[:, None]) & mask
            sums = (of_tokens * counts[:, 1:]).sum(dim=1)
            yield sums / scored if self.per_token else sums

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        output: Any = self.model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
        logits: Tensor = output.logits
        return logits


class HessianProduct:
    """H v by central differences, at a radius that suits each vector.

    A stiff direction needs a small radius, where the difference is linear, and a flat one a large radius,
    where the difference stands out of rounding. The radius is changed until the gradient changes by 0.1 to
    10 % of its length, which takes one or two more tries where vectors differ much.

    Args:
        gradient_at: from a vector of length 1 and a distance to the gradient there.
        length: ||g|| at the centre.
        radius: the first one, in units of the weights' Euclidean norm.
    """

    def __init__(
        self, gradient_at: Callable[[Tensor, float], Tensor], length: float, radius: float = 0.01
    ) -> None:
        self.gradient_at, self.length, self.radius = gradient_at, length, radius
        self.gradients = 0
        """Gradients computed so far."""

    def __call__(self, vector: Tensor) -> Tensor:
        """Return H v, flat [D]."""
        length = norm(vector)
        unit = vector / length
        for last in range(TRIES):
            change = self.gradient_at(unit, self.radius)
            change -= self.gradient_at(unit, -self.radius)
            self.gradients += 2
            radius, ratio = self.radius, norm(change) / (2 * self.length)
            if ACCEPTED[0] <= ratio <= ACCEPTED[1] or last == TRIES - 1:
                break
            self.radius *= min(max(WANTED / max(ratio, 1e-12), 1e-3), 1e2)
        log.debug("A product at radius %.2g changes the gradient by %.2g of its length.", radius, ratio)
        return change.mul_(length / (2 * radius))


def direction(noise: Noise, seed: int, parameters: dict[str, nn.Parameter]) -> Tensor:
    """Return eps of a seed as a flat vector, float32 [D].

    Args:
        noise: kind of noise.
        seed: 64-bit key.
        parameters: those that vectors hold, such as ``DenseObjective.parameters``.
    """
    return torch.cat(
        [noise.sample(seed, name, each.shape, each.device).reshape(-1) for name, each in parameters.items()]
    )


def coordinates(basis: Basis, count: int, directions: Iterator[Tensor]) -> Array:
    """Return eps^T u of directions eps and the first vectors u of a basis, float64 [directions, count].

    Args:
        basis: vectors, flat [D], each read once for several directions: files of whole models are slow.
        count: number of vectors.
        directions: flat [D].
    """
    table: list[list[float]] = []
    while some := list(islice(directions, AT_ONCE)):
        rows = torch.stack(some)
        table += np.transpose([inners(rows, basis[index]) for index in range(count)]).tolist()
    return np.array(table, dtype=np.float64)
