"""The engine of transformers: what prompts with choices begin with is computed once, and changes no score."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from es_lightning.rollout import HFEngine, hf
from tests.helpers.families import FAMILIES, VOCABULARY, make

TOKENS = st.integers(0, VOCABULARY - 5)


def started(name: str, folder: Path) -> HFEngine:
    make(FAMILIES[name], folder / name)
    engine = HFEngine("float32", device="cpu")
    engine.start(folder / name, 128)
    return engine


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HFEngine]:
    engine = started("Llama", tmp_path_factory.mktemp("llama"))
    yield engine
    engine.close()


def computed(engine: HFEngine, sequences: list[list[int]]) -> int:
    """How many tokens go through the model while sequences are scored."""
    counts: list[int] = []
    embedding = engine.model.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(lambda _, ids: counts.append(ids[0].numel()))
    engine.choice_logprobs(sequences)
    hook.remove()
    return sum(counts)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(TOKENS, max_size=20),
    st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_sequences_score_together_what_they_score_alone(
    llama: HFEngine, beginning: list[int], ends: list[list[int]], worth: int
) -> None:
    sequences = [beginning + end for end in ends]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "WORTH_SHARING", worth)
        together = llama.choice_logprobs(sequences)
    for scores, sequence in zip(together, sequences, strict=True):
        [alone] = llama.logprobs([sequence])
        assert len(scores) == len(sequence) - 1
        torch.testing.assert_close(scores, alone, atol=1e-5, rtol=0)


def test_what_sequences_begin_with_is_computed_once(llama: HFEngine) -> None:
    sequences = [[*range(50), 60 + end, 3] for end in range(4)]
    assert computed(llama, sequences) == 50 + 4 * 2
    short = [[*range(10), 60 + end, 3] for end in range(4)]
    assert computed(llama, short) == 4 * 12, "an own pass over all weights would cost more than 30 tokens"
    assert computed(llama, sequences[:1]) == 52


@pytest.mark.parametrize("name", ["Mistral", "Mamba"])
def test_windows_and_recurrent_states_are_not_taken_for_keys_and_values(name: str, tmp_path: Path) -> None:
    engine = started(name, tmp_path)
    sequences = [[*range(50), 60 + end, 3] for end in range(4)]
    together = torch.cat(engine.choice_logprobs(sequences))
    alone = torch.cat([engine.logprobs([sequence])[0] for sequence in sequences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
