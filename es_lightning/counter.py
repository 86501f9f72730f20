"""Random values as a function of position: Threefry-2x32 counters, then a table of quantiles.

Generator: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, and its
reference implementation Random123. Integers, one table look-up and one float addition are all there is, so a
value has the same bits on every device, compiled or eager, for any number of threads and any slicing.

Layout of a flat, row-major tensor: superblocks of 1024 elements, each of 4 lanes of 256. Counter 256 s + b
gives 64 bits, 16 for element b of each lane of superblock s; a lane is contiguous, so that loops vectorise.
"""

import math
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

ROUNDS = 20
LANE = 256
SUPERBLOCK = 4 * LANE
LEVELS = 1 << 16

# Rotations of Threefry-2x32 and the parity word of its key schedule: Random123, threefry.h.
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA


def _rotate(word: Tensor, bits: int) -> Tensor:
    # >> of int32 copies the sign bit; the mask makes it the logical shift that a rotation needs.
    return (word << bits) | ((word >> (32 - bits)) & ((1 << bits) - 1))


def threefry2x32(
    counter: tuple[Tensor, Tensor], key: tuple[Tensor, Tensor], rounds: int = ROUNDS
) -> tuple[Tensor, Tensor]:
    """Encrypt counters: the Threefry-2x32 bijection.

    20 rounds are the authors' default; they know of no statistical flaw from 13 rounds on (threefry.h).

    Args:
        counter: low and high word, int32 of any one shape.
        key: the two key words, int32 that broadcast to the counter.
        rounds: 1 or more.

    Returns:
        Two int32 tensors of the counter's shape, 64 random bits per counter.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    left, right = counter[0] + schedule[0], counter[1] + schedule[1]
    for step in range(rounds):
        left = left + right
        right = _rotate(right, _ROTATIONS[step % 8]) ^ left
        if step % 4 == 3:
            injection = step // 4 + 1
            left = left + schedule[injection % 3]
            right = right + (schedule[(injection + 1) % 3] + injection)
    return left, right


def _signed(word: int) -> int:
    return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def stream_words(key: int, superblock: int, device: torch.device) -> Tensor:
    """The four words that start a draw: key (low, high), then the counter of the first element (low, high).

    Args:
        key: 64-bit key of the stream.
        superblock: index of the first superblock, 0 or more.
        device: where the draw will run.

    Returns:
        int32 [4] on the device.
    """
    counter = superblock * LANE
    words = [_signed(word) for word in (key, key >> 32, counter, counter >> 32)]
    return torch.tensor(words, dtype=torch.int32, device=device)


def draw(table: Tensor, words: Tensor, rows: int, centre: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Values of consecutive superblocks, added to a centre if there is one; the one kernel that is compiled.

    There is no product in here on purpose: callers scale the table instead, which rounds alike, and no
    compiler on any device can contract the sum into a fused multiply-add.

    Args:
        table: float32 [65536]; 16 random bits pick one entry.
        words: int32 [4], see ``stream_words``; the low counter word must not overflow within the rows.
        rows: number of superblocks.
        centre: float32 [rows, 4, 256], or None for zero.
        dtype: of the result, rounded to from float32.

    Returns:
        [rows, 4, 256].
    """
    block = torch.arange(rows * LANE, dtype=torch.int32, device=table.device).view(rows, LANE)
    low, high = threefry2x32((block + words[2], words[3].expand(rows, LANE)), (words[0], words[1]))
    lanes = [table[bits & 0xFFFF] for bits in (low, low >> 16, high, high >> 16)]
    if centre is not None:
        lanes = [part + lane for part, lane in zip(centre.unbind(1), lanes, strict=True)]
    return torch.stack([lane.to(dtype) for lane in lanes], dim=1)


@cache
def normal_table() -> Tensor:
    """Standard-normal quantiles at (i + 1/2) / 65536, symmetric and scaled to variance 1 before rounding.

    Computed in float64 with an exactly rounded sum, then rounded once to float32. Do not change it in place.

    Returns:
        float32 [65536] on the CPU, ascending, from -4.32 to 4.32.
    """
    normal = NormalDist()
    upper = [normal.inv_cdf((level + 0.5) / LEVELS) for level in range(LEVELS // 2, LEVELS)]
    deviation = math.sqrt(math.fsum(value * value for value in upper) / len(upper))
    half = torch.tensor([value / deviation for value in upper], dtype=torch.float64).to(torch.float32)
    return torch.cat([-half.flip(0), half])
