"""What a run prints: its own log lines, without the chatter of the libraries that it uses."""

import logging
import os
import sys
import warnings
from typing import NoReturn

from es_lightning.system.text import printable

CHATTY = (
    "lightning.pytorch",
    "lightning.fabric",
    "mlflow",
    "alembic",
    "httpx",
    "transformers",
    "huggingface_hub",
)
EXPECTED = (
    r"LightningCLI's args parameter is intended to run from within Python",
    r"Found \d+ module\(s\) in eval mode at the start of training",  # nothing is trained by backpropagation
    r".*isinstance\(treespec, LeafSpec\).* is deprecated",
    r".*does not have many workers which may be a bottleneck",  # batches are made in advance
    r"It is recommended to use `self.log\(.*, sync_dist=True\)`",  # all ranks log the same gathered numbers
    r"`torch.distributed.reduce_op` is deprecated",  # another library reads it while looking for kernels
    r"Using ModelCheckpoint with manual optimization",  # checkpoints hold the centre after the update
    # A batch depends only on the index of its generation.
    r"You're resuming from a checkpoint that ended before the epoch ended",
    r"Checkpoint directory .* exists and is not empty",
    r"You have overridden `on_before_batch_transfer` in `LightningModule`",  # on purpose
    r"You're using the WeightAveraging callback with a model that overrides",  # nothing is sharded here
)


def quiet() -> None:
    """Log our own lines without decoration, and the libraries' lines only from warnings upwards."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message=message)
    # Python hides deprecations outside of scripts; an old name in a user's YAML can be mended there and then.
    warnings.filterwarnings(
        "once", message=r"es_lightning\.[\w.]+ is es_lightning\.", category=DeprecationWarning
    )
    logging.getLogger("vllm.triton_utils").setLevel(logging.ERROR)  # it warns that a CPU has no Triton
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(
        logging.ERROR
    )  # it warns of a new experiment at every first run
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings tell of NUMA nodes and host names


def without_loading_bars() -> None:
    """Let transformers load and save models without progress bars; this imports it, which takes seconds."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def stop(message: str, exit_code: int = 2) -> NoReturn:
    """End the program with one line on stderr."""
    rank = int(os.environ.get("RANK", "0"))
    sys.stderr.write(f"es-lightning{f' (rank {rank})' if rank else ''}: {printable(message)}\n")
    raise SystemExit(exit_code)
