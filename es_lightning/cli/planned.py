"""A fit's config, parsed as the fit would, and what it asks for; nothing is started, no folder is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

from es_lightning.analysis.cost import Batch
from es_lightning.analysis.measured import state_per_parameter
from es_lightning.analysis.plan import Run
from es_lightning.cli.command_line import NO_OPTIONS, CommandLine
from es_lightning.cli.refusals import check_settings
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.models import BaseModel
from es_lightning.module import EvolutionStrategies
from es_lightning.records import Prompt
from es_lightning.rollout import VLLMEngine, encode

CHARACTERS = 3
"""Of a token, where there is no tokenizer: prose has 4, numbers have 1 to 3."""
PROMPT_TOKENS = 256
"""Assumed where the problems are not on this machine either."""
SAMPLE = 200  # problems whose tokens are counted
ADAPTER_ENGINE = "VLLMAdapterEngine"
PLAIN_ENGINE = "es_lightning.rollout.HFEngine"
UNUSED = ("callbacks", "logger", "plugins", "profiler", "strategy")


def add_options_of_fit(parser: LightningArgumentParser) -> None:
    """Let a parser that has no subcommands take the options that ``fit`` has outside of its sections."""
    parser.add_method_arguments(pl.Trainer, "fit", skip=set(NO_OPTIONS))


def check_as_fit(config: Any) -> None:
    """Refuse what a fit would refuse, except that the accelerator may be on another machine.

    Args:
        config: of a parser that has no subcommands.

    Raises:
        UsageError: a setting is one that no run can use.
    """
    settings = config.clone()
    settings.ckpt_path, settings.trainer.accelerator = None, "auto"
    check_settings(settings, resumes=False)


class FitSettings(CommandLine):
    """The settings of a fit, with its module and its data.

    Args:
        args: options of ``fit``.
    """

    model: EvolutionStrategies
    datamodule: TaskDataModule

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(args, run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take what ``fit`` takes."""
        super().add_arguments_to_parser(parser)
        add_options_of_fit(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse what a fit would refuse, except that the accelerator may be on another machine."""
        LightningCLI.parse_arguments(self, parser, args)
        check_as_fit(self.config)

    def before_instantiate_classes(self) -> None:
        """Choose no folder, and the plain engine: the one that is asked for may not be installed here."""
        self.asked = self.config
        self.config = self.config.clone()
        ranks = max(1, self.engine_options.get("tensor_parallel_size", 1))
        plain = {"dtype": "auto", "device": "cpu", "batch_size": 1, "tensor_parallel_size": ranks}
        plain["trust_remote_code"] = False
        engine = {"class_path": PLAIN_ENGINE, "init_args": Namespace(plain)}  # type: ignore[no-untyped-call]
        self.config.model.engine = Namespace(engine)  # type: ignore[no-untyped-call]
        for name in UNUSED:
            self.config.trainer[name] = "auto" if name == "strategy" else None

    def instantiate_classes(self) -> None:
        """Make module and data; nothing is opened or restored."""
        LightningCLI.instantiate_classes(self)

    def instantiate_trainer(self, **options: Any) -> Any:
        """Make none."""

    @property
    def data(self) -> TaskDataModule:
        """The data module."""
        return self.datamodule

    @property
    def engine_options(self) -> dict[str, Any]:
        """The options of the engine's class, its defaults included."""
        engine = self.asked.model.engine
        if engine is None:  # as in the saved config of a run without one
            return {name: each.default for name, each in signature(VLLMEngine).parameters.items()}
        return dict(vars(engine.init_args))

    @property
    def holds_adapters(self) -> bool:
        """Whether the engine holds members as adapters."""
        engine = self.asked.model.engine
        return engine is not None and engine.class_path.rpartition(".")[2] == ADAPTER_ENGINE

    @property
    def shares_update(self) -> bool:
        """Whether the strategy lets ranks share the noise of an update."""
        return self._strategy_has("share_update")

    @property
    def shards_centre(self) -> bool:
        """Whether the strategy lets the ranks of a lane hold one centre together."""
        return self._strategy_has("shard_centre")

    def _strategy_has(self, option: str) -> bool:
        strategy = self.asked.trainer.strategy
        options = strategy.get("init_args") if isinstance(strategy, Namespace) else None
        return bool(options is not None and options.get(option))

    @property
    def callbacks(self) -> list[str]:
        """The names of the callbacks, without their folders."""
        given = self.asked.trainer.callbacks or []
        listed = given if isinstance(given, list) else [given]
        return [each.class_path.rpartition(".")[2] for each in listed]


@dataclass
class Problems:
    """What of a task's problems is known here.

    Args:
        settings: of the fit.
        base: whose tokenizer counts their tokens; None if it is not on this machine.
        tokens: new tokens of a completion, on average; None takes the most.
        prompt_tokens: tokens of a prompt; None counts them.
    """

    settings: FitSettings
    base: BaseModel | None
    tokens: float | None
    prompt_tokens: float | None
    longest: float = 0.0
    how: str = ""
    missing: list[str] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Largest number of new tokens."""
        return self.settings.model.rollouts.sampling.max_tokens

    def batches(self, split: str, count: int | None) -> tuple[int, list[Batch]]:
        """Return how many problems are used, and the sequences that they make.

        Args:
            split: of the task.
            count: how many are used; None takes all.
        """
        prompts = self._prompts(split)
        if prompts is None:
            return self._assumed(split, count or self._limit(split))
        if not prompts:
            return 0, []
        count = count or len(prompts)
        sample = self._counted(prompts[:: max(1, len(prompts) // SAMPLE)])
        written = [length for length, choices in sample if not choices]
        scored = [length for _, choices in sample for length in choices]
        found = []
        if written:
            self.longest = max(self.longest, max(written) + self.most)
            read = self.prompt_tokens or sum(written) / len(written)
            found.append(self._generated(round(count * len(written) / len(sample)), read))
        if scored:
            self.longest = max(self.longest, *scored)
            read = sum(scored) / len(scored)
            found.append(Batch(round(count * len(scored) / len(sample)), read, 0))
        return count, found

    def _assumed(self, split: str, count: int | None) -> tuple[int, list[Batch]]:
        """The batches of problems that are not here."""
        if not count:
            self.missing.append(split)
            return 0, []
        self.how = self.how or f"--prompt_tokens: the problems are not here, {PROMPT_TOKENS} assumed"
        read = self.prompt_tokens or PROMPT_TOKENS
        self.longest = max(self.longest, read + self.most)
        return count, [self._generated(count, read)]

    def _generated(self, prompts: int, read: float) -> Batch:
        samples = self.settings.model.rollouts.sampling.n
        return Batch(prompts * samples, read, self.tokens or self.most)

    def _prompts(self, split: str) -> list[Prompt] | None:
        try:
            return self.settings.data.prompts(split) if self._has(split) else []
        except UsageError:
            return None  # a data set of the hub that is not in its cache

    def _has(self, split: str) -> bool:
        return split == "train" or self.settings.data.has(split)

    def _limit(self, split: str) -> int | None:
        limits = getattr(self.settings.data.task, "limits", {})
        return limits.get(split) if isinstance(limits, Mapping) else None

    def _counted(self, prompts: Sequence[Prompt]) -> list[tuple[int, list[int]]]:
        """Tokens of each prompt, and of its choices."""
        if self.base is not None:
            self.how = "counted with the model's tokenizer"
            options = self.settings.model.rollouts.chat_template_kwargs
            encoded = encode(prompts, self.base.tokenizer, options)
            return [
                (len(each.token_ids), [len(choice.token_ids) for choice in each.choices]) for each in encoded
            ]
        self.how = f"--prompt_tokens: {CHARACTERS} characters each, since there is no tokenizer here"
        return [(_estimate(_text(each)), _choices(each)) for each in prompts]


def _text(prompt: Prompt) -> str:
    return f"{prompt.system or ''}{prompt.text}{prompt.prefill}"


def _choices(prompt: Prompt) -> list[int]:
    return [_estimate(_text(prompt) + choice.before + choice.text) for choice in prompt.choices]


def _estimate(text: str) -> int:
    return max(1, len(text) // CHARACTERS)


def run_of(settings: FitSettings, problems: Problems, stored_bytes: int) -> Run:
    """Return what a fit does.

    Args:
        settings: of the fit.
        problems: what is known of them; it notes what is missing.
        stored_bytes: per parameter of the base model's files.

    Raises:
        UsageError: it is not known how many prompts a generation has, or how many generations there are.
    """
    config, data = settings.asked, settings.data
    prompts, train = problems.batches("train", data.prompts_per_generation)
    if not prompts:
        raise UsageError(
            f"the problems of task {data.task.name} are not on this machine, so their number is not known: "
            "give --data.prompts_per_generation, or --data.task.n_train."
        )
    generations = _generations(config, data, prompts)
    times = _validations(config, generations)
    val = problems.batches("val", data.limits["val"])[1] if times else []
    held_out = _held_out(config, data, problems)
    return Run(
        populations=_populations(settings.model, generations),
        prompts=prompts,
        train=train,
        validations=times if val else 0,
        val=val,
        evaluations=(2 * config.report.held_out + times * data.test_with_val) if held_out else 0,
        held_out=held_out,
        longest=problems.longest,
        new_tokens=problems.most,
        state=optimizer_state(settings.model),
        checkpoints=_checkpoints(config.checkpoint, generations, times),
        exports=config.report.export,
        stored_bytes=stored_bytes,
        penalised=settings.model.kl is not None,
    )


def _held_out(config: Namespace, data: TaskDataModule, problems: Problems) -> list[Batch]:
    if not config.report.held_out and not data.test_with_val:
        return []
    splits = ("test", "val")  # the second where there are no test problems
    found = (problems.batches(split, data.limits[split])[1] for split in splits)
    return next((batches for batches in found if batches), [])


def _generations(config: Namespace, data: TaskDataModule, prompts: int) -> int:
    if config.trainer.max_steps > 0:
        return int(config.trainer.max_steps)
    epochs = 1 if config.trainer.max_epochs is None else config.trainer.max_epochs
    try:
        available = len(data.prompts("train"))
    except UsageError:
        available = 0
    generations = epochs * (available // prompts)
    if generations < 1:
        raise UsageError("the number of generations is not known: give --trainer.max_steps.")
    return generations


def _validations(config: Namespace, generations: int) -> int:
    if not config.trainer.limit_val_batches and config.trainer.limit_val_batches is not None:
        return 0
    interval = config.trainer.val_check_interval
    return generations // interval if isinstance(interval, int) else 1


def _checkpoints(options: Namespace, generations: int, validations: int) -> int:
    """How many are kept in the end."""
    every = options.every_n_train_steps
    written = generations // every if every else validations
    kept = written if options.save_top_k == -1 else min(options.save_top_k, written)
    return int(kept)


def _populations(model: EvolutionStrategies, generations: int) -> Mapping[int, int]:
    return Counter(model.population_at(index).size for index in range(generations))


def optimizer_state(model: EvolutionStrategies, side: int = 256) -> float:
    """Return the bytes per parameter of the optimizer's state, after a step on a matrix.

    Args:
        model: it gets the matrix for a centre.
        side: of the matrix.
    """
    model.centre = nn.Linear(side, side, bias=False)
    made = model.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    return state_per_parameter(optimizer)
