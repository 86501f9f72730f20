"""The nearest valid word for a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ALIKE, ALIKE_IF_SHORT = 0.75, 0.66  # the second so that SDG is near SGD
SHORT = 4


def suggestion(word: str, candidates: Iterable[str], before: str = "", after: str = "") -> str:
    """Return `` Did you mean ...?`` with the nearest candidate; nothing if none is near.

    Args:
        word: what the user wrote; dashes before it do not count, nor do capitals.
        candidates: what may stand there.
        before: what the sentence has before the candidate.
        after: what it has after it.
    """
    word = word.lstrip("-").lower()
    by_form = {candidate.lstrip("-").lower(): candidate.lstrip("-") for candidate in candidates}
    alike = ALIKE_IF_SHORT if len(word) <= SHORT else ALIKE
    near = difflib.get_close_matches(word, by_form, n=1, cutoff=alike)
    if not near and len(word) >= SHORT:  # Cosine, for CosineSchedule
        near = sorted((form for form in by_form if form.startswith(word)), key=len)
    return f" Did you mean {before}{by_form[near[0]]}{after}?" if near else ""
