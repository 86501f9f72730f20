"""Random values as a function of position: Threefry-2x32 counters, then a table of quantiles.

Generator: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, and its
reference implementation Random123. Integers, one table look-up and one float addition are all there is, so a
value has the same bits on every device, compiled or eager, for any number of threads and any slicing.

Layout of a flat, row-major tensor: superblocks of 1024 elements, each of 4 lanes of 256. Counter 256 s + b
gives 64 bits, 16 for element b of each lane of superblock s; a lane is contiguous, so that loops vectorise.
"""

import logging
import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist
from typing import Any, cast

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

ROUNDS = 20
LANE = 256
SUPERBLOCK = 4 * LANE
LEVELS = 1 << 16
# Elements per call of the kernel: intermediates of 2 MB stay in cache, the cost of the call itself small.
PIECE = 1 << 21

# Rotations of Threefry-2x32 and the parity word of its key schedule: Random123, threefry.h.
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA

# The long integer chain compiles in a fifth of the time, and runs faster, when inductor writes each step out
# instead of inlining it into the next; the table's 65,536 entries cannot be missed by 16 bits.
_COMPILE_OPTIONS = {
    "realize_opcount_threshold": 4,
    "realize_reads_threshold": 4,
    "assert_indirect_indexing": False,
}


def _rotate_(word: Tensor, bits: int) -> None:
    # >> of int32 copies the sign bit; the mask makes it the logical shift that a rotation needs.
    carried = word >> (32 - bits)
    carried &= (1 << bits) - 1
    word <<= bits
    word |= carried


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
        left += right
        _rotate_(right, _ROTATIONS[step % 8])
        right ^= left
        if step % 4 == 3:
            injection = step // 4 + 1
            left += schedule[injection % 3]
            right += schedule[(injection + 1) % 3] + injection
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


@cache
def _compiled() -> Callable[..., Tensor]:
    """``draw`` under torch.compile, for any number of rows; nothing is compiled before the first call."""
    from torch import _inductor

    known = set(_inductor.list_options())
    options: dict[str, Any] = {name: value for name, value in _COMPILE_OPTIONS.items() if name in known}
    return cast(Callable[..., Tensor], torch.compile(draw, dynamic=True, options=options))


class Kernel:
    """Runs ``draw`` compiled where possible, else eagerly; both give the same bits.

    Each kind of call is compared with the eager bits on two superblocks before it is trusted. The first
    failure is logged as one warning, and from then on everything runs eagerly.

    Args:
        compile: True insists on torch.compile and raises where it fails, False never compiles, None compiles
            where it works. Compiling takes a few seconds per result dtype, once per process.
    """

    def __init__(self, compile: bool | None = None) -> None:
        self._required = compile is True
        self._eager = compile is False
        self._trusted: set[tuple[str, torch.dtype, bool]] = set()

    def __call__(
        self, table: Tensor, words: Tensor, rows: int, centre: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Same as ``draw``.

        Raises:
            RuntimeError: ``compile=True`` was asked for and torch.compile fails or gives other bits.
        """
        call = (table.device.type, dtype, centre is None)
        if not self._eager and call not in self._trusted:
            self._check(table, words, centre, dtype)
            self._trusted.add(call)
        return (draw if self._eager else _compiled())(table, words, rows, centre, dtype)

    def _check(self, table: Tensor, words: Tensor, centre: Tensor | None, dtype: torch.dtype) -> None:
        sample = None if centre is None else centre[:2].contiguous()
        try:
            compiled = _compiled()(table, words, 2, sample, dtype)
            problem = (
                "" if torch.equal(compiled, draw(table, words, 2, sample, dtype)) else "it gives other bits"
            )
        except Exception as error:  # a missing C++ compiler has no public exception class
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        if problem and self._required:
            raise RuntimeError(
                f"torch.compile cannot make the noise ({problem}); pass compile=None to go without it"
            )
        if problem:
            self._eager = True
            _log.warning(
                "torch.compile cannot make the noise (%s); eager code makes the same bits, slower", problem
            )
