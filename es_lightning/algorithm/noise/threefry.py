"""Random values as a function of position: the counter-based generator Threefry-2x32, then a table look-up.

Generator: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, and its
reference implementation Random123. A value takes only integer operations, one table look-up and one float
addition. It therefore has the same bits on every device, compiled or eager, for any number of threads and
any slicing.

A flat, row-major tensor is laid out in superblocks of 1024 elements. A superblock has 4 lanes of 256
contiguous elements (not to be confused with the lanes of ranks in ``es_lightning.distributed``). Counter
256 s + b gives 64 bits, of which element b of each lane of superblock s takes 16. Lanes are contiguous so
that loops vectorise.
"""

import logging
import math
from collections.abc import Callable, Sequence
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
# Elements per call of the kernel on a CPU: intermediates of 2 MB stay in cache, and calls cost little.
PIECE = 1 << 21
# On an accelerator launching a kernel can cost more than what it works on. Run eagerly, a draw makes
# intermediates, here of 256 MB; compiled, it makes nothing but its result.
EAGER_PIECE, COMPILED_PIECE = 1 << 26, 1 << 30
# Elements that are drawn before compiling, which takes seconds. A tiny model never comes so far.
WORTH_COMPILING = 1 << 24

# Rotations of Threefry-2x32 and the parity word of its key schedule: Random123, threefry.h.
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA

# By default inductor inlines each step of the long integer chain into the next. If it stores the steps
# instead, the chain compiles in a fifth of the time and runs faster. The look-up needs no bounds check: 16
# bits cannot exceed the table's 65,536 entries.
_COMPILE_OPTIONS = {
    "realize_opcount_threshold": 4,
    "realize_reads_threshold": 4,
    "assert_indirect_indexing": False,
}


def _rotate_(word: Tensor, bits: int) -> None:
    # >> of int32 copies the sign bit; the mask turns it into the logical shift that a rotation needs.
    carried = word >> (32 - bits)
    carried &= (1 << bits) - 1
    word <<= bits
    word |= carried


def threefry2x32(
    counter: tuple[Tensor, Tensor], key: tuple[Tensor, Tensor], rounds: int = ROUNDS
) -> tuple[Tensor, Tensor]:
    """Encrypt counters with the Threefry-2x32 bijection.

    20 rounds are the authors' default. They know of no statistical flaw at 13 rounds or more (threefry.h).

    Args:
        counter: low and high words, two int32 tensors of the same shape.
        key: the two key words, int32 tensors that broadcast to the counter.
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
    # The int32 with the low 32 bits of the word: torch refuses 2^31 and above.
    return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def stream_words(key: int, superblock: int, device: torch.device) -> Tensor:
    """Return the four words that start a draw: key (low, high), then the first counter (low, high).

    Args:
        key: 64-bit key of the stream.
        superblock: index of the first superblock, 0 or more.
        device: where the draw will run.

    Returns:
        int32 [4] on the device.
    """
    counter = superblock * LANE  # a counter serves one element in each of the 4 lanes
    words = [_signed(word) for word in (key, key >> 32, counter, counter >> 32)]
    return torch.tensor(words, dtype=torch.int32, device=device)


def draw(table: Tensor, words: Tensor, rows: int, centre: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Draw the values of consecutive superblocks, added to a centre if one is given.

    This is the only kernel that is compiled. It must not multiply: a compiler could contract the product and
    the sum into a fused multiply-add, which rounds once instead of twice. Callers scale the table instead,
    which gives the same bits as scaling the values.

    Args:
        table: float32 [65536], of which 16 random bits pick one entry, or [2], where the first bit does.
        words: int32 [4], see ``stream_words``; the low word of the counter must not overflow within the rows.
        rows: number of superblocks.
        centre: float32 [rows, 4, 256], or None for zero.
        dtype: of the result; float32 values are rounded to it.

    Returns:
        A tensor [rows, 4, 256].
    """
    block = torch.arange(rows * LANE, dtype=torch.int32, device=table.device).view(rows, LANE)
    low, high = threefry2x32((block + words[2], words[3].expand(rows, LANE)), (words[0], words[1]))
    lanes = _look_up(table, low, high)
    if centre is not None:
        lanes = [part + lane for part, lane in zip(centre.unbind(1), lanes, strict=True)]
    return torch.stack([lane.to(dtype) for lane in lanes], dim=1)


def draw_streams(table: Tensor, keys: Sequence[int], rows: Sequence[int]) -> Tensor:
    """Draw the first superblocks of many streams at once, with the bits that ``draw`` gives for each.

    Args:
        table: float32 [65536], of which 16 random bits pick one entry, or [2], where the first bit does.
        keys: 64-bit key of each stream.
        rows: number of superblocks of each, together below 2^23.

    Returns:
        float32, the streams' values one after the other.
    """
    device = table.device
    counts = torch.tensor(rows)
    words = torch.tensor([(_signed(key), _signed(key >> 32)) for key in keys], dtype=torch.int32)
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    starts = ((torch.arange(len(firsts)) - firsts) * LANE).to(device, torch.int32)[:, None]
    low_key, high_key = words.repeat_interleave(counts, dim=0).to(device)[:, :, None].unbind(1)
    counter = starts + torch.arange(LANE, dtype=torch.int32, device=device)
    low, high = threefry2x32((counter, torch.zeros_like(counter)), (low_key, high_key))
    return torch.stack(_look_up(table, low, high), dim=1).view(-1)


def _look_up(table: Tensor, low: Tensor, high: Tensor) -> list[Tensor]:
    """Return the values of the four lanes of superblocks."""
    if len(table) == 2:  # a choice takes half the time of a look-up
        lower, upper = 1 << 15, -1 << 31  # the first of each 16 bits
        firsts = (low & lower, low & upper, high & lower, high & upper)
        return [torch.where(first != 0, table[1], table[0]) for first in firsts]
    return [table[bits & 0xFFFF] for bits in (low, low >> 16, high, high >> 16)]


@cache
def normal_table() -> Tensor:
    """Return the standard-normal quantiles at (i + 1/2) / 65536, symmetric and scaled to variance 1.

    They are computed and scaled in float64 with an exactly rounded sum, then rounded once to float32. The
    table is cached: do not change it in place.

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
    """Return ``draw`` under torch.compile, for any number of rows; the first call compiles it."""
    from torch import _inductor

    # torch.compile refuses options that its version does not know.
    known = set(_inductor.list_options())
    options: dict[str, Any] = {name: value for name, value in _COMPILE_OPTIONS.items() if name in known}
    return cast(Callable[..., Tensor], torch.compile(draw, dynamic=True, options=options))


def eager_piece(device: torch.device) -> int:
    """Return how many elements to make at once in eager code; it does not change the bits."""
    return PIECE if device.type == "cpu" else EAGER_PIECE


class Kernel:
    """Runs ``draw`` compiled where possible, else eagerly; both give the same bits.

    A kind of call is a device type, a dtype, and whether there is a centre. Before a kind is trusted, its
    compiled bits are compared with the eager ones on two superblocks. The first failure is logged as one
    warning, and from then on everything runs eagerly.

    Args:
        compile: True requires torch.compile and raises if it fails; False never compiles; None compiles
            where it works, once it is worth it. Compiling takes a few seconds per result dtype, once per
            process.
    """

    def __init__(self, compile: bool | None = None) -> None:
        self._required = compile is True
        self._eager = compile is False
        self._drawn = 0
        self._trusted: set[tuple[str, torch.dtype, bool]] = set()

    def __call__(
        self, table: Tensor, words: Tensor, rows: int, centre: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Same as ``draw``.

        Raises:
            RuntimeError: ``compile`` is True, and torch.compile fails or gives other bits.
        """
        self._drawn += rows * SUPERBLOCK
        if self._eager or not (self._required or self._drawn > WORTH_COMPILING):
            return draw(table, words, rows, centre, dtype)
        call = (table.device.type, dtype, centre is None)
        if call not in self._trusted:
            self._compare_with_eager(table, words, centre, dtype)
            self._trusted.add(call)
        return (draw if self._eager else _compiled())(table, words, rows, centre, dtype)

    def piece(self, device: torch.device, dtype: torch.dtype, has_centre: bool) -> int:
        """Return how many elements one call should make at most; it does not change the bits."""
        is_compiled = (device.type, dtype, not has_centre) in self._trusted and not self._eager
        return COMPILED_PIECE if is_compiled and device.type != "cpu" else eager_piece(device)

    def _compare_with_eager(
        self, table: Tensor, words: Tensor, centre: Tensor | None, dtype: torch.dtype
    ) -> None:
        sample = None if centre is None else centre[:2].contiguous()
        try:
            compiled = _compiled()(table, words, 2, sample, dtype)
            problem = (
                "" if torch.equal(compiled, draw(table, words, 2, sample, dtype)) else "it gives other bits"
            )
        except Exception as error:  # torch has no public exception class for a missing C++ compiler
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
