"""What a whole run takes: memory, disk, seconds and dollars, each number with its formula.

The standard library alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

from es_lightning.analysis import cost
from es_lightning.analysis.cost import Batch, Device, Size
from es_lightning.analysis.phases import Line, Work, generation
from es_lightning.analysis.placement import Placement, Where, place
from es_lightning.analysis.room import Case, Engine, Part
from es_lightning.analysis.ways import ways_out

PROCESS_GB = 2.5
"""Host memory of a rank that works on an accelerator, beside the centre while it is loaded."""


@dataclass(frozen=True)
class Run:
    """What a fit does, as its config says.

    Args:
        populations: number of members, with the number of generations that have so many.
        prompts: P of a generation, each with one reward per member.
        train: what the engine is given for a member, all prompts of a generation.
        validations: how often the validation problems are evaluated.
        val: these problems.
        evaluations: how often the held-out problems are.
        held_out: these problems.
        longest: tokens of the longest prompt with its completion.
        new_tokens: most new tokens of a completion, for which the key-value cache has room.
        state: bytes per parameter of the optimizer's state.
        checkpoints: how many are kept.
        exports: whether the tuned model is written.
        stored_bytes: per parameter, of the exported model.
        penalised: whether the base model scores all completions, for a KL penalty.
    """

    populations: Mapping[int, int]
    prompts: int
    train: Sequence[Batch]
    validations: int
    val: Sequence[Batch]
    evaluations: int
    held_out: Sequence[Batch]
    longest: float
    new_tokens: int
    state: float = 0.0
    checkpoints: int = 1
    exports: bool = True
    stored_bytes: int = 2
    penalised: bool = False

    @property
    def generations(self) -> int:
        """How many there are."""
        return sum(self.populations.values())

    @property
    def members(self) -> int:
        """The largest population."""
        return max(self.populations)


@dataclass(frozen=True)
class Plan:
    """What a run takes on some devices.

    Args:
        run: what it does.
        size: of its model.
        device: each of them.
        count: W, how many.
        per_machine: how many of them are in one machine.
        engine: on every lane of them.
        start_seconds: until the first generation, and before the held-out evaluation.
        dollars_per_hour: of one device; None if nobody said.
        host_gb: memory of a machine beside its accelerators; None if nobody said.
        shares_update: whether ranks share the noise of an update.
        shards_centre: whether the ranks of a lane hold one centre together.
        centre_device: where the config puts the centre.
    """

    run: Run
    size: Size
    device: Device
    count: int
    per_machine: int
    engine: Engine
    start_seconds: float
    dollars_per_hour: float | None = None
    host_gb: float | None = None
    shares_update: bool = False
    shards_centre: bool = False
    centre_device: Where = "auto"

    @property
    def lanes(self) -> int:
        """L."""
        return max(1, self.count // self.engine.ranks)

    @cached_property
    def case(self) -> Case:
        """What a device has to hold."""
        return replace(self._on_device, on_host=self.placement.on_host)

    @cached_property
    def placement(self) -> Placement:
        """Where the centre is, as a fit would decide it."""
        return place(self._on_device, self.centre_device)

    @property
    def _on_device(self) -> Case:
        train = [batch for batch in self.run.train if batch.sequences]
        # Room is needed for completions that use all of their tokens, whatever their mean is.
        tokens = [each.read + (self.run.new_tokens if each.written else 0) for each in train]
        sequences = sum(batch.sequences for batch in train)
        mean = sum(n * batch.sequences for n, batch in zip(tokens, train, strict=True)) / max(sequences, 1)
        longest = max(self.run.longest, mean)
        held = sum((each.read + each.written / 2) * each.sequences for each in train)
        context = held / max(sequences, 1)
        at_once = sequences * max(self.engine.adapters, 1)
        asked = (self.run.state, at_once, mean, context, longest)
        return Case(self.size, self.device, self.engine, *asked, shards=self._shards)

    @property
    def _shards(self) -> int:
        return self.engine.ranks if self.shards_centre else 1

    # Memory ---------------------------------------------------------------------------------------

    @property
    def host(self) -> list[Part]:
        """Memory of a machine, beside that of its accelerators."""
        if self.case.is_cpu:
            return []
        ranks, centre = self.per_machine, cost.centre_bytes(self.size) / self._shards
        share = " / k" if self._shards > 1 else ""
        if self.case.on_host:
            state = cost.state_bytes(self.size, self.run.state) / self._shards
            centres = [
                Part("centres, float32", ranks * centre, f"4 d{share}, {ranks} ranks; page-locked"),
                Part("optimizer's states", ranks * state, f"{self.run.state:.3g} d{share}, {ranks} ranks"),
                Part("a gradient on its way", ranks * 4 * self.size.largest, f"4 m, {ranks} ranks"),
            ]
            centres += [self._gathered] if self._shards > 1 else []
        else:
            loaded = Part("centres while they are loaded", ranks * centre, f"4 d{share}, {ranks} ranks")
            centres = [
                loaded if self._shards == 1 else max(loaded, self._gathered, key=lambda part: part.size)
            ]
        return [
            *centres,
            Part("processes", self.per_machine * PROCESS_GB * 1e9, f"{PROCESS_GB:g} GB a rank, assumed"),
        ]

    @property
    def _gathered(self) -> Part:
        """What rank 0 puts together of a divided centre: a checkpoint, or the model that it exports."""
        one = cost.checkpoint_bytes(self.size, self.run.state) if self.run.checkpoints else 0.0
        exported = self.run.exports * self.run.stored_bytes * self.size.parameters
        return Part(
            "a checkpoint or export on rank 0", max(one, exported), "(4 + s) d, whole before it is written"
        )

    @property
    def disk(self) -> list[Part]:
        """What the run writes into its folder."""
        run, one = self.run, cost.checkpoint_bytes(self.size, self.run.state)
        lines = run.populations.items()
        journal = sum(cost.journal_bytes(size) * times for size, times in lines)
        rewards = sum(cost.rewards_bytes(size, run.prompts) * times for size, times in lines)
        # A new checkpoint is whole before the one that it replaces is deleted.
        checkpoints = (run.checkpoints + 1) * one if run.checkpoints else 0.0
        exported = run.exports * run.stored_bytes * self.size.parameters
        return [
            Part("a checkpoint", one, "(4 + s) d"),
            Part("checkpoints, at the most", checkpoints, f"{run.checkpoints} kept, and one being written"),
            Part("exported model", exported, f"{run.stored_bytes} d" if run.exports else "not written"),
            Part("journal", journal, "G (500 + 23 N)"),
            Part("rewards, at the most", rewards, "G * 20 N P"),
        ]

    # Time -----------------------------------------------------------------------------------------

    def generation(self, members: int) -> list[Line]:
        """Seconds of a generation, by phase, on the lane that has most members.

        Args:
            members: N.
        """
        return generation(self._work, members)

    @property
    def _work(self) -> Work:
        case, run = self.case, self.run
        return Work(
            size=self.size,
            device=self.device,
            engine=self.engine,
            lanes=self.lanes,
            prompts=run.prompts,
            train=run.train,
            at_once=self.engine.at_once if case.problems() else max(case.held, 1),
            state=run.state,
            on_host=case.on_host,
            shards=case.shards,
            shares_update=self.shares_update and self.count > 1,
            penalised=run.penalised,
            stored_bytes=run.stored_bytes,
        )

    def _evaluate(self, batches: Sequence[Batch]) -> float:
        """The centre on problems that are divided among the lanes."""
        mine = [batch._replace(sequences=ceil(batch.sequences / self.lanes)) for batch in batches]
        return self._work.load + self._work.generate(mine)

    @property
    def time(self) -> list[Line]:
        """Seconds of the run, by what it does."""
        run = self.run
        each = {size: sum(line.value for line in self.generation(size)) for size in run.populations}
        every = sum(each[size] * times for size, times in run.populations.items())
        val, held_out = self._evaluate(run.val), self._evaluate(run.held_out)
        return [
            Line("start", self.start_seconds, "--start_seconds: loading, starting the engine, compiling"),
            Line("generations", every, f"{run.generations} of {every / max(run.generations, 1):.3g} s"),
            Line("validations", run.validations * val, f"{run.validations} of {val:.3g} s"),
            Line(
                "held-out evaluations", run.evaluations * held_out, f"{run.evaluations} of {held_out:.3g} s"
            ),
        ]

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(line.value for line in self.time)

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.count * self.seconds / 3600

    @property
    def dollars(self) -> float | None:
        """Of the whole run; None if nobody said what a device costs."""
        return None if self.dollars_per_hour is None else self.device_hours * self.dollars_per_hour

    # The verdict ----------------------------------------------------------------------------------

    def problems(self) -> list[tuple[str, list[str]]]:
        """Say what cannot work, each with the changes that would help; empty if all fits."""
        return [*self._problems_of_ranks(), *self._problems_of_devices(), *self._problems_of_machines()]

    def _problems_of_ranks(self) -> list[tuple[str, list[str]]]:
        k, least = self.engine.ranks, min(self.run.populations)
        if not self.size.cuts_no_head(k):
            heads = f"there are {self.size.heads} heads and {self.size.shared} key-value heads"
            others = [size for size in (1, 2, 4, 8, 16) if self.size.cuts_no_head(size)]
            ways = [f"--model.engine.tensor_parallel_size {' or '.join(map(str, others))}"]
            return [(f"engine.tensor_parallel_size {k} cuts a head in two: {heads}", ways)]
        if self.count % k:
            ways = [f"--count {ceil(self.count / k) * k}"]
            return [(f"{self.count} devices cannot be divided into lanes of {k}", ways)]
        if self.lanes > least:
            ways = [f"--model.population {self.lanes}", f"--count {least * k}"]
            return [(f"there are more lanes, {self.lanes}, than members, {least}", ways)]
        return []

    def _problems_of_devices(self) -> list[tuple[str, list[str]]]:
        found = [(problem, list[str]()) for problem in self.case.problems()]
        if found:
            found[-1][1].extend(ways_out(self.case, self.count))
        return found

    def _problems_of_machines(self) -> list[tuple[str, list[str]]]:
        needed, room = sum(part.size for part in self.host), (self.host_gb or 0) * 1e9
        if self.host_gb is None or needed <= room:
            return []
        ranks = f"{self.per_machine} ranks of a machine"
        words = f"{ranks} need {needed / 1e9:.3g} GB of its memory, and {self.host_gb:g} GB are there"
        fewer = int(room * self.per_machine / needed)
        ways = (
            f"machines with at most {fewer} devices each (--per_machine {fewer})" if fewer else "more memory"
        )
        return [(words, [ways])]
