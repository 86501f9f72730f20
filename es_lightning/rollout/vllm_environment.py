"""What vLLM needs around it: its variables, room in memory, and errors that say what to do."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import floor
from pathlib import Path

import torch
from torch import distributed

from es_lightning.errors import UsageError
from es_lightning.system.text import shortened

CPU_SHARE = 0.8  # of the machine's memory, if no ``memory_fraction`` is given
SPARE = 0.02  # of an accelerator's memory, for gaps between tensors and what libraries take later


def prepare_environment() -> None:
    """Set the variables that vLLM reads when it is imported; values that the user has set stay."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # vLLM sets it only after it has looked at the model.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
    if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] != "0":
        raise UsageError(
            "VLLM_ENABLE_V1_MULTIPROCESSING is set: unset it, since weights are streamed inside one process."
        )


def remove_stale_memory() -> None:
    """Delete the shared memory that killed ranks left behind.

    On CPUs vLLM's external launcher uses the same names in every run, and fails if they exist.
    """
    for path in Path("/dev/shm").glob("*-cpushm_*"):
        path.unlink(missing_ok=True)
    distributed.barrier()  # no rank may create its own before all have deleted


def free_share(left_free: int) -> float:
    """Return the share of the accelerator's memory that is free, without what others will need.

    Args:
        left_free: what they will need, in bytes.

    Raises:
        UsageError: nothing would be left.
    """
    torch.accelerator.empty_cache()  # what is cached for later tensors is not free for vLLM
    free, total = torch.accelerator.get_memory_info()
    share = floor(1000 * ((free - left_free) / total - SPARE)) / 1000
    if share <= 0:
        raise UsageError(
            f"{free / 1e9:.3g} GB of the device's {total / 1e9:.3g} GB are free, of which updates need "
            f"{left_free / 1e9:.3g} GB, so vLLM has no room: give --model.centre_device cpu, or end "
            "what else runs on the device; es-lightning plan says what is needed."
        )
    return share


@contextmanager
def model_errors(folder: Path) -> Iterator[None]:
    """Turn vLLM's errors over a model into one sentence, with the cause that it only logs.

    Raises:
        UsageError: vLLM cannot run the model.
    """
    causes: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and str(error).strip():
            causes.append(str(error).strip().splitlines()[-1])  # of a traceback in another process
        return error is None

    logger = logging.getLogger("vllm.model_executor.models.registry")
    logger.addFilter(collect)
    try:
        yield
    except Exception as error:
        reason = shortened(" ".join((causes or [f"{type(error).__name__}: {error}"])[-1].split()))
        raise UsageError(
            f"vLLM cannot run the model in {folder} ({reason}): mend that, or take --model.engine HFEngine, "
            "which runs whatever transformers does."
        ) from error
    finally:
        logger.removeFilter(collect)
