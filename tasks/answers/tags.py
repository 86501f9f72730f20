"""Blocks such as ``<answer>...</answer>`` in a reply; everything here is linear in the length of the text."""


def block_end(text: str, tag: str, start: int = 0) -> int | None:
    """Return where the first complete block of a tag after ``start`` ends; None if there is none."""
    opened = text.find(f"<{tag}>", start)
    closed = -1 if opened < 0 else text.find(f"</{tag}>", opened)
    return None if closed < 0 else closed + len(f"</{tag}>")


def last_block(text: str, tag: str) -> str | None:
    """Return the content of the last complete block of a tag; None if there is none."""
    _, opened, inside = text.rpartition(f"</{tag}>")[0].rpartition(f"<{tag}>")
    return inside.split(f"</{tag}>", 1)[0] if opened else None


def format_score(text: str) -> float:
    """Return 1.0 for a think and then an answer block, 0.5 for an answer, 0.1 for a think block, else 0.0."""
    think_end = block_end(text, "think")
    if think_end is not None and block_end(text, "answer", think_end) is not None:
        return 1.0
    if block_end(text, "answer") is not None:
        return 0.5
    return 0.0 if think_end is None else 0.1
