"""The generator under the noise: published vectors, avalanche, layout, the table; and no compiler at hand."""

import logging
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from torch import Tensor

from es_lightning.algorithm.noise import threefry as counter
from es_lightning.algorithm.noise.threefry import (
    LEVELS,
    Kernel,
    draw,
    normal_table,
    stream_words,
    threefry2x32,
)

MASK = 0xFFFFFFFF
CPU = torch.device("cpu")


def reference_threefry(words: tuple[int, int], key: tuple[int, int], rounds: int) -> tuple[int, int]:
    """Threefry-2x32 in Python's own integers, after section 4.2 of Salmon et al. 2011."""
    parts = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
    x, y = words[0] + parts[0] & MASK, words[1] + parts[1] & MASK
    for index in range(rounds):
        shift = [13, 15, 26, 6, 17, 29, 16, 24][index % 8]
        x = x + y & MASK
        y = (y << shift & MASK | y >> 32 - shift) ^ x
        if index % 4 == 3:
            block = index // 4 + 1
            x, y = x + parts[block % 3] & MASK, y + parts[(block + 1) % 3] + block & MASK
    return x, y


def reference_element(table: Tensor, key: int, index: int) -> float:
    """One element from the layout in words: superblocks of 4 lanes of 256, 16 bits of one counter each."""
    superblock, within = divmod(index, 1024)
    lane, block = divmod(within, 256)
    position = superblock * 256 + block
    words = reference_threefry((position & MASK, position >> 32), (key & MASK, key >> 32), 20)
    return float(table[words[lane // 2] >> 16 * (lane % 2) & 0xFFFF])


def int32(*words: int) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.array([word], dtype=np.uint32).view(np.int32)) for word in words)


def run_threefry(words: tuple[int, int], key: tuple[int, int], rounds: int) -> tuple[int, ...]:
    low, high = threefry2x32(int32(*words), int32(*key), rounds)  # type: ignore[arg-type]
    return int(low) & MASK, int(high) & MASK


@pytest.mark.parametrize(
    ("rounds", "words", "key", "expected"),
    [  # tests/kat_vectors of Random123 1.14
        (13, (0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        (13, (MASK, MASK), (MASK, MASK), (0xFD36D048, 0x2D17272C)),
        (13, (0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xBA3E4725, 0xF27D669E)),
        (20, (0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        (20, (MASK, MASK), (MASK, MASK), (0x1CB996FC, 0xBB002BE7)),
        (20, (0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers_of_threefry(
    rounds: int, words: tuple[int, int], key: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert run_threefry(words, key, rounds) == expected


word_pairs = st.tuples(st.integers(0, MASK), st.integers(0, MASK))


@given(words=word_pairs, key=word_pairs, rounds=st.integers(1, 24))
def test_threefry_equals_its_definition_in_integers(
    words: tuple[int, int], key: tuple[int, int], rounds: int
) -> None:
    assert run_threefry(words, key, rounds) == reference_threefry(words, key, rounds)


def test_avalanche_one_bit_of_the_key_or_counter_flips_half_of_the_output() -> None:
    """64 * 2048 trials per input bit: the flipped share is 1/2 within 6 standard errors of 0.0014."""
    counters = torch.arange(2048, dtype=torch.int32)
    zero = torch.zeros_like(counters)

    def bits(low: Tensor, high: Tensor, key: tuple[int, int]) -> np.ndarray:
        words = threefry2x32((low, high), int32(*key))  # type: ignore[arg-type]
        return np.unpackbits(torch.stack(words).numpy().view(np.uint8))

    plain = bits(counters, zero, (7, 11))
    for bit in range(32):
        flip = int32(1 << bit)[0]
        for other in (
            bits(counters, zero, (7 ^ 1 << bit, 11)),
            bits(counters, zero, (7, 11 ^ 1 << bit)),
            bits(counters ^ flip, zero, (7, 11)),
            bits(counters, zero ^ flip, (7, 11)),
        ):
            assert abs(np.mean(plain != other) - 0.5) < 6 * 0.5 / plain.size**0.5


def test_the_table_is_scaled_normal_quantiles_whose_bits_no_machine_can_change() -> None:
    exact = ndtri((np.arange(LEVELS) + 0.5) / LEVELS)
    exact /= np.sqrt(np.mean(exact**2))
    table = normal_table().numpy()
    np.testing.assert_array_equal(table, exact.astype(np.float32))
    np.testing.assert_array_equal(table, -table[::-1])
    assert abs(np.mean(table.astype(np.float64) ** 2) - 1) < 1e-8
    # All quantiles are a thousand times farther from a rounding boundary than float64 libraries differ.
    step = np.where(exact > table, np.inf, -np.inf).astype(np.float32)
    boundary = (table.astype(np.float64) + np.nextafter(table, step)) / 2
    assert np.min(np.abs(exact / boundary - 1)) > 5e-13
    digest = blake2b(table.astype("<f4").tobytes(), digest_size=16).hexdigest()
    assert digest == "65561716612ffbcbfd947ed80353b542"


@pytest.mark.parametrize("superblock", [0, 1, 2**22, 2**24 - 3, 2**35 + 5])
@given(key=st.integers(0, 2**64 - 1))
def test_elements_follow_the_stated_layout_beyond_32_bits(superblock: int, key: int) -> None:
    table = normal_table()
    values = counter.draw(table, stream_words(key, superblock, CPU), 2, None, torch.float32).flatten()
    picked = [0, 1, 255, 256, 511, 512, 767, 768, 1023, 1024, 1500, 2047]
    expected = [reference_element(table, key, superblock * 1024 + index) for index in picked]
    assert values[picked].tolist() == expected


def test_stream_words_are_key_and_counter_as_signed_words() -> None:
    words = stream_words(0xFFFFFFFF_80000000, 2**32 + 3, CPU)
    assert words.tolist() == [-(2**31), -1, 768, 256]


def broken(*_: object) -> Tensor:
    raise OSError("no compiler here")


def wrong_bits(table: Tensor, words: Tensor, rows: int, centre: Tensor | None, dtype: torch.dtype) -> Tensor:
    return counter.draw(table, words + 1, rows, centre, dtype)


@pytest.mark.parametrize(("fault", "reason"), [(broken, "no compiler here"), (wrong_bits, "other bits")])
def test_without_torch_compile_one_warning_and_the_same_bits(
    fault: object, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(counter, "_compiled", lambda: fault)
    monkeypatch.setattr(counter, "WORTH_COMPILING", 0)
    kernel, table, words = Kernel(), normal_table(), stream_words(5, 0, CPU)
    for call in ((3, None, torch.float32), (3, torch.ones(3, 4, 256), torch.bfloat16)):
        assert torch.equal(kernel(table, words, *call), counter.draw(table, words, *call))
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [reason in warning for warning in warnings] == [True]
    with pytest.raises(RuntimeError, match=f"{reason}.*pass compile=None"):
        Kernel(compile=True)(table, words, 2, None, torch.float32)


def test_little_noise_is_not_worth_a_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    compilations: list[int] = []

    def compiled(table: Tensor, words: Tensor, rows: int, *rest: Any) -> Tensor:
        compilations.append(rows)
        return counter.draw(table, words, rows, *rest)

    monkeypatch.setattr(counter, "_compiled", lambda: compiled)
    monkeypatch.setattr(counter, "WORTH_COMPILING", 5 * counter.SUPERBLOCK)
    kernel, table, words = Kernel(), normal_table(), stream_words(5, 0, CPU)
    for _ in range(3):
        kernel(table, words, 2, None, torch.float32)
    assert compilations == [2, 2]  # the comparison with eager bits, then the third call


@pytest.mark.parametrize("centre", [None, torch.linspace(-1, 1, 4 * 1024).view(4, 4, 256)])
def test_choosing_from_two_entries_gives_the_bits_of_looking_up(centre: torch.Tensor | None) -> None:
    two = torch.tensor([-0.3, 0.3])
    words = stream_words(2**63 + 5, 7, torch.device("cpu"))
    looked_up = draw(two.repeat_interleave(LEVELS // 2), words, 4, centre, torch.float32)
    assert torch.equal(draw(two, words, 4, centre, torch.float32), looked_up)
