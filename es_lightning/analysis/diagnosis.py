"""Diagnose in plain words what is wrong with a population, from the readings of its last generations.

A reading is what ``PopulationHealth`` measured in one generation; it lacks what could not be measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import torch

from es_lightning.analysis.health import above
from es_lightning.records import Evaluation, Generation

Reading = Mapping[str, float]

FEW = 0.1
"""Share of the prompts on which members' rewards differ; below this there is next to no signal."""
ALIKE = 0.2
"""Share of unusual completions; below this, members say the same."""
SURE = 1.645
"""Standard deviations above what chance gives that a mean agreement has to reach: chance does in 5 %."""
LOST = 0.5
"""Share of the centre's reward, counted from the lowest reward, that members may lose."""
MUCH = 0.25
"""Share of completions that are cut off; also how late a lane is, as a share of the mean lane's time."""


def against(record: Generation, centre: Evaluation, cut_off: float, characters: float) -> dict[str, float]:
    """Compare a population with its centre on the same prompts, and tell whether sigma has ruined it.

    The population is ruined if no member is above the centre and one of three things holds: it loses more
    than half of the centre's reward, counted from the lowest reward; its completions are cut off far more
    often; or they have less than a quarter of the length.

    Args:
        record: the generation's record.
        centre: evaluation of the centre on the generation's prompts.
        cut_off: share of the centre's completions that were cut off.
        characters: mean length of the centre's completions, in characters.
    """
    earned, mean = centre.reward, float(record.rewards.mean())
    least = min(float(record.rewards.min()), *centre.rewards)
    share = above(record.rewards, torch.tensor(centre.rewards, dtype=torch.float64))
    lost = earned - mean > LOST * (earned - least)
    cut = record.scores.get("completion_truncated", 0.0) - cut_off > MUCH
    short = record.scores.get("completion_chars", math.inf) < 0.25 * characters
    ruined = float(share == 0 and (lost or cut or short))
    return {"above_centre": share, "centre_reward": earned, "ruined": ruined, "centre_truncated": cut_off}


def symptoms(recent: Sequence[Reading]) -> list[str]:
    """Return the kinds of trouble that all of these generations show, as far as they were measured.

    Several causes of a weak signal look alike, so at most one of these is returned: the first that fits.

    Args:
        recent: readings of consecutive generations.

    Returns:
        Kinds that ``sentence`` knows; empty for a healthy population.
    """
    few = _always(recent, "informative_prompts", lambda share: share < FEW)
    few = few or _always(recent, "skipped", lambda skipped: skipped > 0)
    alike = _always(recent, "distinct", lambda share: share < ALIKE)
    low = _is_low([reading for reading in recent if "agreement_null" in reading], len(recent))
    ruined = _always(recent, "ruined", lambda yes: yes > 0)
    causes = {"sigma_large": ruined, "sigma_small": (few or low) and alike, "reward": few, "prompts": low}
    kinds = [cause for cause, holds in causes.items() if holds][:1]
    measured = any("centre_truncated" in reading for reading in recent)
    cut = _always(recent, "truncated", lambda share: share > MUCH)
    centre_too = _always(recent, "centre_truncated", lambda share: share > MUCH)
    if cut and (centre_too or not measured) and not ruined:
        kinds.append("truncated")
    # A generation that a resumed run takes from its journal has no times of lanes, which ``_lanes`` needs.
    clocks = "lane_imbalance" in recent[-1]
    if clocks and _always(recent, "lane_imbalance", lambda late: late > MUCH):
        kinds.append("lanes")
    return kinds


def agreement_bound(readings: Sequence[Reading]) -> float:
    """Return the mean agreement that these generations exceed in 5 of 100 cases if members differ by chance.

    Args:
        readings: at least one, each with ``agreement_null`` and ``agreement_null_sd``, which depend on the
            number of members and prompts and on whether members come in pairs.
    """
    spread = math.sqrt(math.fsum(reading["agreement_null_sd"] ** 2 for reading in readings)) / len(readings)
    return fmean(reading["agreement_null"] for reading in readings) + SURE * spread


def _is_low(measured: Sequence[Reading], generations: int) -> bool:
    if 2 * len(measured) <= generations:
        return False
    return fmean(reading["agreement"] for reading in measured) < agreement_bound(measured)


def _always(recent: Sequence[Reading], name: str, holds: Callable[[float], bool]) -> bool:
    values = [reading[name] for reading in recent if name in reading]
    return bool(values) and all(map(holds, values))


def sentence(
    kind: str, recent: Sequence[Reading], record: Generation, temperature: float, max_tokens: int
) -> str:
    """Say what was seen, and what to do about it.

    Args:
        kind: one of the kinds that ``symptoms`` returns.
        recent: the readings that ``symptoms`` returned it for.
        record: record of the latest generation.
        temperature: sampling temperature of the completions.
        max_tokens: most new tokens of a completion.
    """
    words = {"sigma_large": _sigma_large, "sigma_small": _sigma_small, "reward": _reward, "lanes": _lanes}
    if kind in words:
        return words[kind](recent, record)
    if kind == "truncated":
        return (
            f"{_mean(recent, 'truncated'):.0%} of the completions are cut off at {max_tokens} tokens: raise "
            "model.sampling.max_tokens, or ask for shorter answers."
        )
    colder = f", or lower model.sampling.temperature ({temperature:g} now)" if temperature > 0 else ""
    return (
        f"other prompts would rank the members differently (agreement {_mean(recent, 'agreement'):.2f}), "
        f"though rewards differ: raise data.prompts_per_generation ({len(record.prompts)} now){colder}. "
        "SigmaFinder tells whether another sigma gives more signal."
    )


def _sigma_large(recent: Sequence[Reading], record: Generation) -> str:
    return (
        f"no member earns what the centre does: {float(record.rewards.mean()):.4g} on average, where it "
        f"earned {_last(recent, 'centre_reward'):.4g}. The noise ruins them: lower model.sigma "
        f"({record.sigma:g} now), for example to {record.sigma / 2:g}."
    )


def _sigma_small(recent: Sequence[Reading], record: Generation) -> str:
    return (
        f"members hardly differ: {_mean(recent, 'distinct'):.0%} of their completions are unusual, and they "
        f"earn differently on {_mean(recent, 'informative_prompts'):.0%} of the prompts: raise model.sigma "
        f"({record.sigma:g} now), for example to {2 * record.sigma:g}, or use a reward with more steps, or "
        "more prompts per generation."
    )


def _reward(recent: Sequence[Reading], record: Generation) -> str:
    return (
        f"members earn alike on {1 - _mean(recent, 'informative_prompts'):.0%} of the prompts, whatever they "
        f"say; {float(record.rewards.mean()):.4g} on average: give the reward more steps, or take problems "
        "that are neither hopeless nor solved."
    )


def _lanes(recent: Sequence[Reading], record: Generation) -> str:
    late = _mean(recent, "lane_imbalance")
    lanes, members = len(record.lane_seconds), len(record.members)
    # Does an uneven division explain more than half of the delay? The fullest lane has ceil(members / lanes)
    # members, and the mean over lanes is members / lanes.
    if math.ceil(members / lanes) * lanes / members - 1 > late / 2:
        return (
            f"the slowest lane takes {1 + late:.2f} times the mean, since {members} members do not divide "
            f"into {lanes} lanes: make model.population a multiple of {lanes}."
        )
    slowest = max(range(lanes), key=lambda lane: record.lane_seconds[lane])
    return (
        f"the slowest lane takes {1 + late:.2f} times the mean, lane {slowest} in the last generation: look "
        "whether its machine is slower or shared with others."
    )


def _mean(recent: Sequence[Reading], name: str) -> float:
    return fmean(reading[name] for reading in recent if name in reading)


def _last(recent: Sequence[Reading], name: str) -> float:
    return [reading[name] for reading in recent if name in reading][-1]
