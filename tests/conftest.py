"""What every test shares: a quiet, offline environment that no test leaves changed."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from es_lightning.system.affinity import allow, allowed

# Libraries read these when they are imported, so they come before any test module.
# Offline: no test may need a hub.
os.environ.update(
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    MPLBACKEND="agg",
    MLFLOW_LOGGING_LEVEL="WARNING",
)

# The tiny model gains nothing from threads, which wait for one another on a busy machine; vLLM binds its own.
torch.set_num_threads(1)

# A busy machine is slow, not wrong; and CI tries the same examples every time.
settings.register_profile("es_lightning", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("es_lightning")

# Libraries set variables with these beginnings for themselves, or the command line for them.
LIBRARY_VARIABLES = (
    "AITER_",
    "CUDA_",
    "KMP_",
    "LD_LIBRARY_PATH",
    "MLFLOW_",
    "OMP_",
    "PL_",
    "PYTEST_",
    "PYTORCH_",
    "TORCH_CPP_LOG_LEVEL",
    "TORCHINDUCTOR_",
    "TRITON_",
    "_TORCHINDUCTOR",
    "VLLM_",
)


@pytest.fixture(autouse=True)
def _environment_is_left_as_it_was() -> Iterator[None]:
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    leaked = sorted(name for name in changed if not name.startswith(LIBRARY_VARIABLES))
    for name in leaked:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    assert not leaked, f"the test left {leaked} in the environment: set them with monkeypatch.setenv"


@pytest.fixture(autouse=True, scope="module")
def _cores_are_left_as_they_were() -> Iterator[None]:
    before = allowed()
    yield
    after = allowed()
    allow(before)
    assert after == before, f"the file left this process on {sorted(after)} of the cores {sorted(before)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start engines, ranks or servers come first, so that none is left for the end on one core."""
    long = {item.path for item in items if any(map(item.get_closest_marker, ("vllm", "ddp", "faults")))}
    items.sort(key=lambda item: item.path not in long)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests that this machine cannot run."""
    if item.get_closest_marker("vllm"):
        pytest.importorskip("vllm", reason="vLLM is not installed")
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads for the time of a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
