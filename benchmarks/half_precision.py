"""What a bfloat16 centre costs: steps that are lost, and what adding noise and taking it off again leaves.

    python benchmarks/half_precision.py                                  steps and residues, minutes on a core
    python benchmarks/half_precision.py -c configs/demo.yaml --rewards   the reward of what residues leave

Trainers that perturb the engine's own weights keep them in bfloat16, and do two things to them. After every
update they round; and every member leaves a residue, since (theta + sigma eps) - sigma eps, each rounded, is
not theta. The same updates, of random weights of mean 0 and variance 1, are made here in three ways, on the
weights of the embedded model: in float32 (exact), in float32 with the centre rounded after every update (what
the arm half_precision does), and in place. Nothing is evaluated but with --rewards.
"""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from es_lightning.algorithm.noise import GaussianNoise, member_seed
from es_lightning.cli.console import quiet
from es_lightning.cli.opened import opened
from es_lightning.evaluation.parts import Parts
from es_lightning.models import BaseModel

log = logging.getLogger("half_precision")

HALF = torch.bfloat16
LRS = (0.0005, 0.002, 0.012)
"""That of arXiv 2509.24372, one between, and the demo's."""
WAYS = ("rounded", "in place")


class Walk:
    """Updates of random weights, on one tensor after the other.

    Args:
        generations: updates.
        members: N.
        sigma: noise scale.
    """

    def __init__(self, generations: int, members: int, sigma: float) -> None:
        self.generations, self.members, self.sigma = generations, members, sigma
        self.noise = GaussianNoise()
        drawn = torch.randn(generations, members, generator=torch.Generator().manual_seed(0)).double()
        centred = drawn - drawn.mean(dim=1, keepdim=True)
        self.weights = centred / centred.std(dim=1, correction=0, keepdim=True)

    def eps(self, name: str, shape: torch.Size, generation: int, member: int) -> Tensor:
        """Return a member's noise, float32."""
        return self.noise.sample(member_seed(0, generation, member), name, shape)

    def of(self, name: str, theta: Tensor, lrs: Sequence[float]) -> dict[tuple[float, str], Tensor]:
        """Make all updates of a tensor in every way.

        Args:
            name: of the tensor.
            theta: its base, float32.
            lrs: learning rates; 0 leaves the residues alone.

        Returns:
            By learning rate and way ("exact", "rounded", "in place") where it ends.
        """
        ends = {(lr, way): theta.to(HALF).float() for lr in lrs for way in ("exact", *WAYS)}
        places = {lr: theta.to(HALF) for lr in lrs}
        for generation in range(self.generations):
            total = torch.zeros_like(theta)
            for member in range(self.members):
                eps = self.eps(name, theta.shape, generation, member)
                moved = self.sigma * eps.to(HALF)
                for place in places.values():
                    place.add_(moved).sub_(moved)
                total.add_(eps, alpha=float(self.weights[generation, member]) / self.members)
            for lr in lrs:
                ends[lr, "exact"].add_(total, alpha=lr)
                ends[lr, "rounded"] = ends[lr, "rounded"].add_(total, alpha=lr).to(HALF).float()
                places[lr].add_((lr * total).to(HALF))
        return ends | {(lr, "in place"): place.float() for lr, place in places.items()}


def steps_and_residues(walk: Walk, lrs: Sequence[float]) -> None:
    """Log how much of the exact change is there, and how long what is beside it is."""
    sums: dict[tuple[float, str], float] = defaultdict(float)
    base, dimension = BaseModel("embedded").load(), 0
    for name, parameter in base.named_parameters():
        theta = parameter.detach().float()
        start = theta.to(HALF).float()
        dimension += theta.numel()
        ends = walk.of(name, theta, (0.0, *lrs))
        for (lr, way), end in ends.items():
            change, exact = (end - start).double().flatten(), (ends[lr, "exact"] - start).double().flatten()
            sums[lr, f"{way}, along"] += float(change @ exact)
            sums[lr, f"{way}, squares"] += float(change @ change)
    gone = sqrt(sums[0.0, "in place, squares"])
    log.info("a member is %.2f away; residues alone lead %.2f away", walk.sigma * sqrt(dimension), gone)
    for lr in lrs:
        exact = sums[lr, "exact, squares"]
        for way in WAYS:
            share = sums[lr, f"{way}, along"] / exact
            beside = sqrt(max(sums[lr, f"{way}, squares"] - share**2 * exact, 0.0) / exact)
            words = "lr %g, %s: %.3f of the change of %.2f, and %.3f of its length beside it"
            log.info(words, lr, way, share, sqrt(exact), beside)


@torch.no_grad()
def rewards(parts: Parts, walk: Walk) -> None:
    """Log the test reward of the base model, and of what residues alone have left of it."""
    parts.prompts("train")
    prompts = parts.rollouts.reserve(parts.base, parts.task.problems("test"))
    centre = parts.start()
    for name in ("base model", "residues alone"):
        if name == "residues alone":
            for key, parameter in centre.named_parameters():
                parameter.copy_(walk.of(key, parameter.detach().clone(), (0.0,))[0.0, "in place"])
        parts.rollouts.forget()
        parts.rollouts.hold_centre(centre)
        found = parts.evaluator().evaluate(prompts)
        log.info("%s: %.4f on %d test problems", name, found.reward, len(prompts))


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--sigma", type=float, default=0.004)
    parser.add_argument("--lrs", type=float, nargs="+", default=LRS)
    parser.add_argument("-c", "--config", help="of a fit, for --rewards")
    parser.add_argument("--rewards", action="store_true", help="evaluate what residues alone leave")
    given = parser.parse_args()
    quiet()
    walk = Walk(given.generations, given.members, given.sigma)
    if given.rewards:
        if given.config is None:
            parser.error("give a config with -c FILE")
        with opened(["-c", given.config]) as parts:
            rewards(parts, walk)
    else:
        steps_and_residues(walk, given.lrs)


if __name__ == "__main__":
    main()
