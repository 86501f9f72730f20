"""Which options make a run fit its devices; only the standard library."""

from collections.abc import Iterator
from dataclasses import replace

from es_lightning.analysis.devices import GPUS
from es_lightning.analysis.placement import is_good
from es_lightning.analysis.room import Case, Engine

SHARD = "--trainer.strategy PopulationStrategy --trainer.strategy.shard_centre true"
FRACTIONS = [percent / 100 for percent in range(95, 0, -5)]


def ways_out(case: Case, count: int) -> list[str]:
    """Return changes of options that make a run fit, each as the words of a command line; at most four.

    Args:
        case: that does not fit.
        count: devices of the run.
    """
    ways = []
    for changed, words in _changes(case, count):
        if (fitting := _fitting(changed)) is not None:
            ways.append([*words, *_share_words(case.engine, fitting.engine)])
    ways = sorted(ways, key=len)[:3]
    larger = sorted(GPUS.values(), key=lambda device: device.memory) if not case.is_cpu else []
    for device in larger:
        if (
            device.memory > case.device.memory
            and (fitting := _fitting(replace(case, device=device))) is not None
        ):
            ways.append([f"--device {device.name}", *_share_words(case.engine, fitting.engine)])
            break
    if ways:
        return [" ".join(words) for words in ways]
    return [f"a smaller model: {_largest(case) / 1e9:.2g} * 10^9 parameters would fit"]


def _changes(case: Case, count: int) -> Iterator[tuple[Case, list[str]]]:
    """Yield other lanes, places of the centre, and SGD, with their words; nothing changed comes first."""
    lanes = [k for k in (1, 2, 4, 8, 16) if k > case.engine.ranks and count % k == 0]
    for k in (case.engine.ranks, *filter(case.size.cuts_no_head, lanes)):
        words = [f"--model.engine.tensor_parallel_size {k}"] if k > case.engine.ranks else []
        changed = replace(case, engine=replace(case.engine, ranks=k), shards=k if case.shards > 1 else 1)
        yield changed, words
        if k > 1 and case.shards == 1:
            yield replace(changed, shards=k), [*words, SHARD]
        if not (case.on_host or case.is_cpu):
            yield replace(changed, on_host=True), [*words, "--model.centre_device cpu"]
        if case.state and not case.on_host:
            yield replace(changed, state=0.0), [*words, "--model.optimizer torch.optim.SGD"]


def _fitting(case: Case) -> Case | None:
    """The case itself if it fits, or else with another share for vLLM, or with fewer prompts at once."""
    return next((each for each in _with_any_share(case) if is_good(each)), None)


def _with_any_share(case: Case) -> Iterator[Case]:
    yield case
    own = case.engine
    if own.takes_rest:
        yield replace(case, engine=replace(own, cache_gib=None))
        return
    if own.fraction is None:
        sizes = [
            size for size in (64, 32, 16, 8, 4, 2, 1) if size < min(own.at_once, case.sequences) / own.samples
        ]
        yield from (replace(case, engine=replace(own, batch_size=size)) for size in sizes)
        return
    for cache_gib in dict.fromkeys((own.cache_gib, None)):
        for fraction in FRACTIONS:
            yield replace(case, engine=replace(own, fraction=fraction, cache_gib=cache_gib))


def _share_words(before: Engine, after: Engine) -> list[str]:
    words = []
    if after.fraction != before.fraction:
        words.append(f"--model.engine.memory_fraction {after.fraction:g}")
    if after.cache_gib != before.cache_gib:
        words.append("--model.engine.kv_cache_gib null")
    if after.batch_size != before.batch_size:
        words.append(f"--model.engine.batch_size {after.batch_size}")
    return words


def _largest(case: Case) -> float:
    """Parameters of a smaller model of the same kind that would fit, to 5 %."""
    for share in (percent / 100 for percent in range(95, 0, -5)):
        whole = case.size
        size = whole._replace(
            parameters=int(share * whole.parameters),
            tuned=int(share * whole.tuned),
            largest=int(share * whole.largest),
            cache_values=int(share * whole.cache_values),
        )
        if _fitting(replace(case, size=size)) is not None:
            return float(size.parameters)
    return 0.0
