"""The engine, and the weights in it: the centre, the base model, or one member after the other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from es_lightning.algorithm.noise import Noise
from es_lightning.algorithm.shares import Shards
from es_lightning.algorithm.tensors import Weights
from es_lightning.errors import DivergenceError, UsageError
from es_lightning.evaluation.members import Asked, alone, together, tried
from es_lightning.evaluation.progress import Announcer
from es_lightning.evaluation.reach import frozen, within_reach
from es_lightning.models import BaseModel
from es_lightning.models.layout import persistent_buffers
from es_lightning.records import Completion, Member, Prompt
from es_lightning.rollout import AdapterEngine, RolloutEngine, Sampling, complete, encode
from es_lightning.rollout.adapters import even_share
from es_lightning.system.files import to_json
from es_lightning.system.memory import trim_heap
from es_lightning.system.signals import interruptible
from es_lightning.system.stopwatch import Stopwatch

log = logging.getLogger(__name__)

SAMPLE = 64  # tokens of the run's own prompts, for the check of the engine


class Rollouts:
    """Starts an engine, loads weights into it, and generates; it knows no ranks, no rewards and no Trainer.

    The engine gets copies of the weights. The centre is never changed, so nothing has to be restored.
    Only this class decides how a population is evaluated, in ``population``: one member after the other, each
    on all prompts; or, with an engine that holds members as adapters, as many as it takes in one batch.

    Args:
        engine: generates completions.
        sampling: how completions are decoded; None decodes greedily, up to 256 tokens.
        retry_member: try a member once more if the engine fails on it, instead of stopping at once.
        chat_template_kwargs: options of the model's chat template, such as ``enable_thinking``.

    Raises:
        UsageError: a member cannot be tried again, because several ranks evaluate it together; or an option
            of the chat template is no plain JSON.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        sampling: Sampling | None = None,
        retry_member: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if retry_member and engine.tensor_parallel_size > 1:
            raise UsageError(
                "retry_member needs tensor_parallel_size 1: the other ranks of a lane could not follow."
            )
        self.engine, self.sampling, self.retry_member = engine, sampling or Sampling(), retry_member
        self.chat_template_kwargs = dict(sorted((chat_template_kwargs or {}).items()))
        try:
            to_json(self.chat_template_kwargs)  # the journal has to hold them
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"model.chat_template_kwargs is no plain JSON ({error}): give texts, numbers, true or false."
            ) from error
        self.shards = Shards()
        """Which tensors of the centre this process holds, and what device they pass through on their way into
        the engine; the ranks of a lane load weights together."""
        self.announcer = Announcer()
        """Tells listeners how far members and slow steps have come."""
        self._needed = 0  # most tokens that a reserved prompt can have together with its completion
        self._most = 0  # prompts that were reserved in one call
        self._seen: list[int] = []  # the beginning of the first prompts that were reserved
        self._room = 0  # tokens per sequence that the engine was started for
        self._held: str | None = None  # "centre" or "base"; None if the engine holds neither, as it is now

    # Starting -------------------------------------------------------------------------------------

    def reserve(
        self,
        base: BaseModel,
        prompts: Sequence[Prompt],
        max_tokens: int | None = None,
        drop_long: bool = False,
    ) -> list[Prompt]:
        """Encode prompts, and make ``start`` reserve room for them and their completions.

        Args:
            base: the base model, for its tokenizer and its longest sequence.
            prompts: at least one.
            max_tokens: most new tokens for each; None takes the limit of ``sampling``.
            drop_long: leave out prompts that are longer than the model can take with their completions.

        Returns:
            The prompts with their token ids.

        Raises:
            UsageError: a prompt with its completion is longer than the model can take, or the tokenizer is
                that of another model.
        """
        encoded = encode(prompts, base.tokenizer, self.chat_template_kwargs)
        largest = max(max(_ids(prompt), default=0) for prompt in encoded)
        if base.vocabulary is not None and largest >= base.vocabulary:
            raise UsageError(
                f"the model has {base.vocabulary} tokens, and its tokenizer gives the id {largest}: they do "
                "not belong together. Get the model's files anew, or give another model.base."
            )
        new = self.sampling.max_tokens if max_tokens is None else max_tokens
        if base.max_length is not None:
            encoded = _that_fit(encoded, new, base.max_length, drop_long)
        length = max(_length(prompt, new) for prompt in encoded)
        self._needed, self._most = max(self._needed, length), max(self._most, len(encoded))
        for prompt in encoded:
            if len(self._seen) >= SAMPLE:
                break
            self._seen += prompt.choices[0].token_ids if prompt.choices else prompt.token_ids
        return encoded

    @property
    def longest(self) -> int:
        """Most tokens that a reserved prompt can have together with its completion; 0 before the first."""
        return self._needed

    @property
    def most_prompts(self) -> int:
        """Most prompts that were reserved in one call, to be evaluated together; 0 before the first."""
        return self._most

    @property
    def sample(self) -> list[list[int]]:
        """Rows of the first prompts' tokens, all as long as the engine has room for, at most 64.

        Together they have 64 or more: short rows begin one token after the other, and prompts that have less
        come again and again.
        """
        length = min(SAMPLE, max(self._room - 1, 2))  # vLLM generates one token more
        count = ceil(SAMPLE / length)
        tokens = self._seen * ceil((count + length) / max(len(self._seen), 1))
        return [tokens[first : first + length] for first in range(count)]

    def limited(self, noise: Noise, base: BaseModel, centre: nn.Module, members: int) -> Noise:
        """Return the noise that the engine can hold members of, and make ``start`` keep room for them.

        That is the noise itself for engines that take whole weights. Adapters do not reach all parameters:
        the others have to be frozen in the update as well, so the run has to use what this returns.

        Args:
            noise: the run's kind of noise.
            base: the base model.
            centre: its parameters, under Hugging Face names.
            members: how many this lane evaluates per generation.

        Raises:
            UsageError: nothing would be left to perturb.
        """
        engine = self.engine
        if not isinstance(engine, AdapterEngine):
            return noise
        shapes = {name: parameter.shape for name, parameter in centre.named_parameters()}
        kind = type(engine).__name__
        limited = within_reach(noise, shapes, set(engine.reached(base.folder)), kind)
        names = [name for name, shape in shapes.items() if limited.perturbs(name, shape)]
        engine.expect(names, limited.rank, members)
        if limited is not noise and os.environ.get("RANK", "0") == "0":
            log.info("%s holds members as adapters, and freezes %s.", kind, frozen(noise, limited, shapes))
        return limited

    def start(self, base: BaseModel) -> None:
        """Start the engine, or restart it if more room has been reserved since it was started."""
        if self._needed > self._room:
            if self._room:
                self.engine.close()
            with self.announcer.stage(f"starting {type(self.engine).__name__} with {base.name}"):
                self.engine.start(base.folder, self._needed)
            self._room = self._needed
            self.forget()

    # Weights --------------------------------------------------------------------------------------

    def load(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Stream weights into the engine."""
        self.forget()  # before loading: if that fails, the engine holds a mixture
        with interruptible():
            self.engine.load_weights(named_tensors)
        trim_heap()

    def hold_centre(self, centre: nn.Module) -> None:
        """Load the centre, unless the engine holds it already; see ``forget``."""
        if self._held != "centre":
            self.load(self.unperturbed(centre))
            self._held = "centre"

    def hold_base(self, base: BaseModel, centre: nn.Module) -> None:
        """Load the base model's weights from their files, unless the engine holds them already.

        Args:
            base: the base model.
            centre: gives the names of the tensors, and the devices that they are copied to on their way.

        Raises:
            UsageError: the files cannot be read any more.
        """
        if self._held != "base":
            self.load_stored(base.weights, centre)
            self._held = "base"

    def load_stored(self, weights: Weights, centre: nn.Module) -> None:
        """Load weights that are read one tensor at a time, such as those of another model's files.

        Args:
            weights: by the centre's names, in its shapes.
            centre: gives the names of the tensors, and the devices that they are copied to on their way.

        Raises:
            UsageError: the files cannot be read any more.
        """
        self.load(
            self.stream(centre, lambda name, theta: weights.read(name).to(theta.device, self.engine.dtype))
        )

    def forget(self) -> None:
        """Make the next use load the weights again. Call this after every change of the centre's weights."""
        self._held = None

    def holds_centre(self) -> None:
        """Note that the centre has been loaded last."""
        self._held = "centre"

    @torch.no_grad()
    def stream(
        self, centre: nn.Module, change: Callable[[str, Tensor], Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Stream what a checkpoint holds of a model: parameters, changed one by one, and buffers as they are.

        Args:
            centre: float32 parameters under Hugging Face names.
            change: from a parameter's name and value to the tensor for the engine, in the engine's dtype. The
                value is on the device that this process computes on.
        """
        here = self.shards.here
        yield from self.shards.stream(
            centre.named_parameters(), lambda name, theta: change(name, here(theta)), self.engine.dtype
        )
        for name, buffer in persistent_buffers(centre).items():
            yield name, here(buffer)

    def unperturbed(self, centre: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Stream (Hugging Face name, theta) in the engine's dtype, tensor by tensor."""
        return self.stream(centre, lambda name, theta: theta.to(self.engine.dtype))

    def perturbed(
        self, centre: nn.Module, member: Member, noise: Noise, sigma: float
    ) -> Iterator[tuple[str, Tensor]]:
        """Stream (Hugging Face name, theta + sign * sigma * eps) in the engine's dtype, tensor by tensor."""
        scale, dtype = member.sign * sigma, self.engine.dtype
        return self.stream(
            centre, lambda name, theta: noise.perturbed(member.seed, name, theta, scale, dtype)
        )

    # Generating -----------------------------------------------------------------------------------

    def complete(
        self, prompts: Sequence[Prompt], sampling: Sampling | None = None, generation: int = 0
    ) -> list[Completion]:
        """Complete prompts with the weights that the engine holds.

        Args:
            prompts: P encoded prompts.
            sampling: how to decode; None takes the run's sampling.
            generation: added to the sampler's seed, so that each generation draws different samples.

        Returns:
            P * n completions in the order of the prompts, the n samples of one prompt side by side.

        Raises:
            DivergenceError: the weights give log-probabilities that are not finite.
        """
        try:
            return self._complete(prompts, sampling, generation)
        except DivergenceError as error:
            held = {"centre": " of the centre", "base": " of the base model"}.get(self._held or "", "")
            raise DivergenceError(
                f"{error}{held}, in {self.engine.dtype}: the learning rate is too large, or the base model "
                "is broken. Lower model.optimizer.init_args.lr and begin a new run."
            ) from error

    def _complete(
        self, prompts: Sequence[Prompt], sampling: Sampling | None = None, generation: int = 0
    ) -> list[Completion]:
        with interruptible():
            return complete(self.engine, prompts, self._seeded(generation, sampling))

    def _seeded(self, generation: int, sampling: Sampling | None = None) -> Sampling:
        sampling = sampling or self.sampling
        return replace(sampling, seed=sampling.seed + generation)

    def population(
        self,
        centre: nn.Module,
        members: Sequence[Member],
        noise: Noise,
        sigma: float,
        prompts: Sequence[Prompt],
        generation: int = 0,
        watch: Stopwatch | None = None,
        score: Callable[[Member, list[Completion]], None] | None = None,
    ) -> Iterator[tuple[Member, list[Completion]]]:
        """Complete the prompts with each member's weights; yields members as soon as they are finished.

        Args:
            centre: theta, float32 parameters under Hugging Face names.
            members: perturbations of the centre.
            noise: kind of noise.
            sigma: noise scale in units of the weights.
            prompts: P encoded prompts, the same for all members.
            generation: added to the sampler's seed, and named in errors.
            watch: records the seconds of the phases perturb, load and generate.
            score: called with each member's completions while the engine computes with its weights; if it
                fails, the engine has failed on the member, or on its batch, which is then tried again as a
                whole.

        Raises:
            RolloutError: the engine failed on a member; the centre is untouched.
            DivergenceError: a member's log-probabilities are not finite; the centre is untouched.
        """
        asked = Asked(centre, noise, sigma, prompts, self._seeded(generation), watch or Stopwatch(), score)
        way, size = alone, 1
        if isinstance(self.engine, AdapterEngine):
            if not self.engine.at_once:
                raise RuntimeError("the engine has no room for adapters: call limited before start")
            way, size = together, max(1, even_share(len(members), self.engine.at_once))
        for first in range(0, len(members), size):
            yield from tried(self, way, members[first : first + size], asked, generation)


def _ids(prompt: Prompt) -> Iterator[int]:
    """Yield the token ids of a prompt and of its choices."""
    yield from prompt.token_ids
    for choice in prompt.choices:
        yield from choice.token_ids


def _that_fit(prompts: list[Prompt], max_tokens: int, most: int, drop_long: bool) -> list[Prompt]:
    """Return the prompts that a model can take with their completions.

    Raises:
        UsageError: there is none, or one is too long and is not to be dropped.
    """
    fitting = [prompt for prompt in prompts if _length(prompt, max_tokens) <= most]
    if len(fitting) == len(prompts) or (drop_long and fitting):
        return fitting
    longest = max(prompts, key=lambda prompt: _length(prompt, max_tokens))
    advice = ["take a model for longer texts" if longest.choices else "lower max_tokens"]
    if not drop_long and fitting:
        advice.append("leave such problems out with data.drop_long_prompts: true")
    rest = "its longest answer" if longest.choices else f"max_tokens {max_tokens}"
    raise UsageError(
        f"prompt {longest.id} has {len(longest.token_ids)} tokens; with {rest} that is "
        f"{_length(longest, max_tokens)}, but the model ends at {most}: {', or '.join(advice)}."
    )


def _length(prompt: Prompt, max_tokens: int) -> int:
    """Count the tokens of a prompt with the longest completion that it can get."""
    if prompt.choices:
        # vLLM cannot score a sequence without generating one more token.
        return max(len(choice.token_ids) for choice in prompt.choices) + 1
    return len(prompt.token_ids) + max_tokens
