"""Which values are rewards: numbers of Python, NumPy and PyTorch that are finite and not too large."""

import math
from typing import Any

from es_lightning.records import LARGEST_REWARD


def number(value: Any) -> float:
    """Return a number as a float: one of Python's, or the only element of an array or a tensor.

    Raises:
        TypeError: it is no number; a text that spells one is none.
        Exception: whatever else its conversion raises.
    """
    item = getattr(value, "item", None)  # NumPy, PyTorch and their kin; it refuses several elements
    if callable(item):
        value = item()
    if isinstance(value, str | bytes | bytearray):
        raise TypeError("a text is no number")
    return float(value)


def reward_number(value: Any) -> tuple[float, str]:
    """Return a value as a float, and what is wrong with it as a reward; empty if nothing is."""
    try:
        converted = number(value)
    except Exception:  # another library's conversion may raise anything
        return math.nan, "that is no number."
    if not math.isfinite(converted):
        return converted, "rewards must be finite numbers."
    if abs(converted) > LARGEST_REWARD:
        return converted, f"that is too large, as rewards go up to {LARGEST_REWARD:g} in size: scale it down."
    return converted, ""
