"""The journal of a run: what made each update, in a line of its own, so that any centre can be made again."""

from es_lightning.journal.entry import JOURNAL, REWARDS, Entry, lineage, parse, read_journal

__all__ = ["JOURNAL", "REWARDS", "Entry", "lineage", "parse", "read_journal"]
