"""Measure a tuned model beside its base: weights, divergences, and rewards on the same problems."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from torch import nn

from es_lightning.analysis import divergence
from es_lightning.analysis.beside_base import Found, Pair
from es_lightning.analysis.forgetting import Look
from es_lightning.analysis.geometry import changes, labels, table
from es_lightning.errors import DivergenceError, UsageError
from es_lightning.evaluation.analyze_settings import AnalyzeSettings
from es_lightning.evaluation.kept_lines import KeptLines
from es_lightning.evaluation.parts import Parts
from es_lightning.evaluation.problems import choose, problems_of
from es_lightning.evaluation.samples import drawn_samples, log_ratios_of
from es_lightning.journal.identity import described, digest
from es_lightning.journal.opening import TunedModel
from es_lightning.records import Prompt
from es_lightning.rollout.engine import model_dtype

KEY = "es_lightning_analysis"
BASE, TUNED = "base", "tuned"
GEOMETRY = "geometry"
SAMPLES = "samples"
DIVERGENCES = {TUNED: "kl_base_tuned", BASE: "kl_tuned_base"}
"""By the model that scores the other's samples."""

Told = Callable[[int, int, str], None]


class BesideBase:
    """Measures a tuned model beside its base; what is on disk is not measured again.

    All ranks have to make the same calls. Both models are evaluated by one engine, which gets whole weights.

    Args:
        parts: of the base model, not started.
        tuned: the other model, in the base model's shapes.
        settings: what is measured beside the rewards of the config's task.
        split: ``val`` or ``test`` of that task.
        path: file of JSON lines for what was measured.
        base_from: such a file of another model, with the same settings: what it says of the base is taken
            and not measured again; None measures it.

    Raises:
        UsageError: there are no problems, one is too long, or a file belongs to another analysis.
    """

    def __init__(
        self,
        parts: Parts,
        tuned: TunedModel,
        settings: AnalyzeSettings,
        split: str,
        path: Path,
        base_from: Path | None = None,
    ) -> None:
        self.parts, self.tuned, self.settings, self.split = parts, tuned, settings, split
        self.prior = settings.prior_tasks()
        self.prompts = parts.prompts(split)
        self.prior.reserve(parts.rollouts, parts.base)
        self.max_tokens = settings.kl_max_tokens or parts.rollouts.sampling.max_tokens
        self.asked = self._asked()
        self._lines = KeptLines(path, KEY, self._settings(), _is_row, parts.ranks)
        self._holds_tuned = False
        self._known: dict[str, Any] = {row["what"]: row["found"] for row in self._lines.rows}
        if base_from is not None:
            self._take_base(base_from)

    def _take_base(self, path: Path) -> None:
        """Keep another analysis' measurements that are of the base model alone."""
        for row in self._lines.borrowed(path, "--base_from", free="model"):
            what = row["what"]
            is_of_base = what.startswith(f"{BASE}/") and what != f"{BASE}/{DIVERGENCES[BASE]}"
            if is_of_base and what not in self._known:
                self._keep(what, row["found"])

    def _asked(self) -> list[Prompt]:
        """Return the encoded prompts for the divergence; none if nothing is generated for any problem."""
        _, problems = problems_of(self.parts.task, ["val", "test", "train"])
        written = [prompt for prompt in problems if not prompt.choices]
        if not written:
            return []
        chosen = choose(written, self.settings.kl_prompts, self.settings.kl_seed)
        # One more token: vLLM has to generate one when it is asked for log-probabilities.
        room = self.max_tokens + 1
        return self.parts.rollouts.reserve(self.parts.base, chosen, room, self.parts.data.drop_long_prompts)

    def _settings(self) -> dict[str, Any]:
        """Return what decides the numbers, in plain JSON."""
        rollouts, base, settings = self.parts.rollouts, self.parts.base, self.settings
        dtype = model_dtype(rollouts.engine.dtype_name, base.dtype, self.parts.device)
        return {
            "base": base.hashes(),
            "model": self.tuned.digest,
            "task": described("data.task", self.parts.task, self.parts.task.name),
            "split": self.split,
            "prompts": digest(self.prompts),
            "kl": {"prompts": digest(self.asked), "max_tokens": self.max_tokens, "seed": settings.kl_seed},
            "prior": self.prior.settings(),
            "sampling": asdict(rollouts.sampling),
            "engine": f"{type(rollouts.engine).__name__}, {str(dtype).removeprefix('torch.')}",
            "chat_template_kwargs": rollouts.chat_template_kwargs,
            "geometry": {"thresholds": list(settings.thresholds), "top": settings.top},
        }

    def run(self, tell: Told | None = None) -> Found:
        """Measure what is not measured yet.

        Args:
            tell: called after each measurement with the number of those that are done, that of all, and the
                name of this one; None tells nobody.

        Raises:
            UsageError: a file of weights cannot be read, or holds numbers that are not finite.
            DivergenceError: a model gives log-probabilities that are not finite.
        """
        if GEOMETRY not in self._known:
            self._keep(GEOMETRY, self._geometry())
        steps = self._steps()
        missing = [what for what in steps if what not in self._known]
        if missing:
            self.prior.start()
            try:
                centre = self.parts.start(members=self.parts.ranks.lane.count)
                for what in missing:
                    self._hold(what.partition("/")[0], centre)
                    self._keep(what, self._measured(what, steps[what]))
                    if tell is not None:
                        tell(sum(each in self._known for each in steps), len(steps), what)
            finally:
                self.prior.close()
        return self._found()

    def _steps(self) -> dict[str, Callable[[], Any]]:
        """Return the measurements that need the engine, in an order in which it loads few weights.

        The first part of a name is the model that the engine holds.
        """
        steps: dict[str, Callable[[], Any]] = {}
        for model in (BASE, TUNED):
            if self.asked:
                steps[f"{model}/{SAMPLES}"] = self._sampled
            if self.asked and model == TUNED:
                steps[f"{TUNED}/{DIVERGENCES[TUNED]}"] = partial(self._divergences, TUNED)
            steps[f"{model}/task"] = self._on_task
            steps |= {f"{model}/prior/{name}": partial(self._on_prior, name) for name in self.prior.prompts}
        if self.asked:
            steps[f"{BASE}/{DIVERGENCES[BASE]}"] = partial(self._divergences, BASE)
        return steps

    def _hold(self, model: str, centre: nn.Module) -> None:
        """Load the weights of one of the models, unless the engine holds them already."""
        if model == BASE:
            self.parts.rollouts.hold_base(self.parts.base, centre)
            self._holds_tuned = False
        elif not self._holds_tuned:
            self.parts.rollouts.load_stored(self.tuned.weights, centre)
            self._holds_tuned = True

    def _measured(self, what: str, measure: Callable[[], Any]) -> Any:
        try:
            return measure()
        except DivergenceError as error:
            model = self.parts.base.name if what.startswith(f"{BASE}/") else self.tuned.name
            raise DivergenceError(
                f"{model} gives log-probabilities that are not finite in {self.parts.rollouts.engine.dtype}: "
                "give --model.engine.dtype float32, or another model."
            ) from error

    def _keep(self, what: str, found: Any) -> None:
        self._known[what] = found
        self._lines.add({"what": what, "found": found})

    # The measurements -----------------------------------------------------------------------------

    def _geometry(self) -> dict[str, Any]:
        """Measure the change of the weights on rank 0, tensor by tensor, and give its numbers to all ranks.

        Sums on different devices may differ in the last bit.
        """
        ranks, told = self.parts.ranks, b""
        if ranks.rank == 0:
            try:
                told = json.dumps({"table": self._table()}).encode()
            except UsageError as error:  # raised after the exchange: the other ranks wait for this one
                told = json.dumps({"refusal": str(error)}).encode()
        found = json.loads(ranks.from_first(told))
        if "refusal" in found:
            raise UsageError(found["refusal"])
        rows: dict[str, Any] = found["table"]
        return rows

    def _table(self) -> dict[str, Any]:
        base, read, device = self.parts.base, self.tuned.weights.read, self.parts.device
        named = ((name, read(name).float().to(device)) for name, _ in base.blueprint.named_parameters())
        parts = changes(named, base.weights, self.settings.thresholds)
        broken = next((name for name, part in parts.items() if not isfinite(part.squares)), None)
        if broken is not None:
            raise UsageError(
                f"{self.tuned.name}, or its base {base.name}, has numbers in {broken} that are not finite: "
                "give another model."
            )
        return table(parts, labels(self.settings.thresholds), self.settings.top, steps=False)

    def _sampled(self) -> Any:
        return drawn_samples(self.parts.evaluator(), self.asked, self.max_tokens, self.settings.kl_seed)

    def _divergences(self, held: str) -> dict[str, float]:
        """Compare the model that the engine holds with the other one, by what the other one has sampled."""
        sampled = BASE if held == TUNED else TUNED
        ratios = log_ratios_of(self.parts.evaluator(), self._known[f"{sampled}/{SAMPLES}"])
        found = divergence.named(DIVERGENCES[held], ratios)
        if sampled == TUNED:
            found |= divergence.named(f"{DIVERGENCES[held]}_k3", divergence.k3(ratios))
        return found

    def _on_task(self) -> dict[str, Any]:
        return asdict(Look.of(0, self.parts.evaluator().evaluate(self.prompts)))

    def _on_prior(self, name: str) -> dict[str, Any]:
        return asdict(Look.of(0, self.prior.evaluate(name, self.parts.evaluator())))

    def _found(self) -> Found:
        nats: dict[str, float] = {}
        for model in (TUNED, BASE) if self.asked else ():
            nats |= self._known[f"{model}/{DIVERGENCES[model]}"]
        return Found(
            geometry=self._known[GEOMETRY],
            divergences=nats,
            divergence_prompts=len(self.asked),
            task=self._pair("task", self.split),
            prior={
                name: self._pair(f"prior/{name}", split, self.prior.prompts[name])
                for name, split in self.prior.splits.items()
            },
        )

    def _pair(self, what: str, split: str, prompts: Sequence[Prompt] = ()) -> Pair:
        base, tuned = (Look(**self._known[f"{model}/{what}"]) for model in (BASE, TUNED))
        return Pair(split, base, tuned, [prompt.id for prompt in prompts])


def _is_row(row: Any) -> bool:
    """Whether a line of JSON names a measurement, and holds what that leaves."""
    try:
        what, found = row["what"], row["found"]
        kind = what.rpartition("/")[2]
        if kind == SAMPLES:
            return all(each.keys() == {"given", "token_ids", "logprobs"} for each in found)
        if kind in (GEOMETRY, *DIVERGENCES.values()):
            return isinstance(found, dict)
        return found.keys() == {each.name for each in fields(Look)} and bool(found["rewards"])
    except (KeyError, TypeError, AttributeError):
        return False
