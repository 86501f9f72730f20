"""Rows of a data set, by split: from the hub, a saved folder, JSONL or parquet files, or shipped samples."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from es_lightning.errors import UsageError

Row = dict[str, Any]

SPLITS = ("train", "val", "test")
SAMPLE = "sample"
UNKNOWN = ""
_ALIASES = {"validation": "val", "valid": "val", "dev": "val"} | {split: split for split in SPLITS}
_SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Source:
    """Where a data set lives, and which of its splits we use.

    Args:
        hub: id on the Hugging Face hub.
        splits: maps our ``train``, ``val`` and ``test`` to the data set's own names. If the labels of its
            test split are hidden, ``test`` is its validation split. A split that is missing here is not read.
        config: the data set's configuration, if it has several.
        sample: name of the shipped file with rows in this format, without folder and ending.
        columns: the columns to read, if the data set has large ones that are not needed; empty reads all.
    """

    hub: str
    splits: Mapping[str, str]
    config: str | None = None
    sample: str = ""
    columns: tuple[str, ...] = ()


def read_rows(data: str | None, source: Source | None) -> dict[str, list[Row]]:
    """Read rows by split; those that nothing assigns to a split are under ``UNKNOWN``.

    Args:
        data: ``sample`` for the shipped rows, a JSONL or parquet file, a folder of such files named after
            their splits, a folder that ``save_to_disk`` wrote, or a hub id, ``owner/name`` or
            ``owner/name:config``. None reads ``source`` from the hub.
        source: the data set that the task knows by name, if any.

    Raises:
        UsageError: there is nothing of that name, or it cannot be read; the message says what to do.
    """
    if data == SAMPLE and source is not None and source.sample:
        packaged = resources.files("es_lightning.tasks.datasets").joinpath(
            "samples", f"{source.sample}.jsonl"
        )
        return _by_column(_json_rows(packaged.read_text(encoding="utf-8"), data), source, data)
    if data is None:
        if source is None:
            raise UsageError("the task needs data: give a JSONL or parquet file, a folder, or a hub id.")
        return _from_hub(source)
    path = Path(data).expanduser()
    if path.is_dir():
        return _from_folder(path, source)
    if path.suffix in _SUFFIXES:
        return _by_column(_file_rows(path), source, path)
    if path.exists():
        raise UsageError(f"data is {data}: give a file that ends in .jsonl or .parquet, or a folder.")
    if data.count("/") != 1 or data.startswith((".", "~", "/")):
        raise UsageError(
            f"data is {data}: there is no such folder. Give a .jsonl or .parquet file, a folder, or a hub id "
            "such as openai/gsm8k."
        )
    hub, _, config = data.partition(":")
    known = source or Source(hub, {})
    own = known.config if hub == known.hub else None
    return _from_hub(replace(known, hub=hub, config=config or own))


def _by_column(rows: Iterable[Row], source: Source | None, where: object) -> dict[str, list[Row]]:
    """Group rows by their column ``split``.

    Without it, rows of a test-only data set are test, and rows of others are under ``UNKNOWN``.
    """
    test_only = source is not None and set(source.splits) == {"test"}
    by_split: dict[str, list[Row]] = {}
    for number, row in enumerate(rows, start=1):
        named = row.get("split") or ("test" if test_only else UNKNOWN)
        if not isinstance(named, str) or named not in {UNKNOWN, *_ALIASES}:
            raise UsageError(
                f'data is {where}: in row {number}, "split" must be train, val or test, not {named!r}.'
            )
        by_split.setdefault(_ALIASES.get(named, UNKNOWN), []).append(row)
    return by_split


def _from_folder(folder: Path, source: Source | None) -> dict[str, list[Row]]:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        from datasets import Dataset, load_from_disk

        try:
            saved = load_from_disk(str(folder))
        except Exception as error:  # errors of the library, of pyarrow, or of the files inside
            raise UsageError(
                f"data is {folder}: give a folder that can be read, save it again ({_first_line(error)})."
            ) from None
        if isinstance(saved, Dataset):
            return _by_column(_rows(saved, source), source, folder)
        return _ours({str(name): _rows(part, source) for name, part in saved.items()}, source, folder)
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in _SUFFIXES and files.setdefault(path.stem, path) != path:
            raise UsageError(
                f"data is {folder}: it holds {path.stem} twice, as .jsonl and .parquet. Keep one."
            )
    return _ours({name: _file_rows(path) for name, path in files.items()}, source, folder)


def _rows(dataset: Any, source: Source | None) -> list[Row]:
    """Return the rows of a ``datasets.Dataset``, without the columns that are not needed."""
    wanted = [name for name in (source.columns if source else ()) if name in dataset.column_names]
    rows: list[Row] = (dataset.select_columns(wanted) if wanted else dataset).to_list()
    return rows


def _ours(parts: Mapping[str, list[Row]], source: Source | None, where: object) -> dict[str, list[Row]]:
    """Rename splits to ours: by the names in ``source`` if all of them are there, else by plain aliases."""
    names = dict(source.splits) if source else {}
    if not names or not set(names.values()) <= set(parts):
        names = {}
        for name in parts:
            if (ours := _ALIASES.get(name)) and names.setdefault(ours, name) != name:
                raise UsageError(f"data is {where}: {names[ours]} and {name} are both {ours}. Keep one.")
    if not names:
        raise UsageError(
            f"data is {where}: it holds no split named train, val (or validation) or test, as train.jsonl "
            "or train.parquet would be."
        )
    return {ours: parts[theirs] for ours, theirs in names.items()}


def _file_rows(path: Path) -> list[Row]:
    try:
        if path.suffix == ".jsonl":
            return _json_rows(path.read_text(encoding="utf-8-sig"), str(path))
        import pyarrow.parquet

        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    except UsageError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are among these
        raise UsageError(f"data is {path}: give a file that can be read ({_first_line(error)}).") from None


def _json_rows(text: str, where: str) -> list[Row]:
    rows = []
    # splitlines would also split at U+2028 and U+0085, which may stand in a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{where} line {number} is not JSON ({error}).") from None
            if not isinstance(row, dict):
                raise UsageError(f'{where} line {number} is not a JSON object such as {{"question": "..."}}.')
            rows.append(row)
    return rows


def _from_hub(source: Source) -> dict[str, list[Row]]:
    import datasets

    name = f"{source.hub}:{source.config}" if source.config else source.hub
    try:
        with _offline_unless_reached(source.hub):
            if not source.splits:
                parts = datasets.load_dataset(source.hub, source.config)
                return _ours({str(key): _rows(part, source) for key, part in parts.items()}, None, name)
            return {
                ours: _rows(datasets.load_dataset(source.hub, source.config, split=theirs), source)
                for ours, theirs in source.splits.items()
            }
    except UsageError:
        raise
    except Exception as error:  # the library has dozens of its own, and lets network errors through
        config = f", {source.config!r}" if source.config else ""
        folder = source.hub.rpartition("/")[2]
        raise UsageError(
            f"the data set {name} could not be loaded ({_first_line(error)}). On a machine that reaches the "
            f'hub, run python -c "import datasets; datasets.load_dataset({source.hub!r}{config})'
            f".save_to_disk({folder!r})\", bring the folder here, and give it as the task's option data."
        ) from None


@contextmanager
def _offline_unless_reached(hub: str) -> Iterator[None]:
    """Use the local cache at once if the hub is out of reach; the library would retry for a minute."""
    import datasets
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    try:
        HfApi().dataset_info(hub, timeout=10)
    except HfHubHTTPError:
        pass  # the hub answers, and the library's own error explains the answer better
    except Exception:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
