"""How long a call takes, whatever else the machine is doing."""

import time
from collections.abc import Callable


def fastest(call: Callable[[], object]) -> float:
    """Least of five timings, in seconds of this process: the one with the fewest interruptions."""
    timings = []
    for _ in range(5):
        start = time.process_time()
        call()
        timings.append(time.process_time() - start)
    return min(timings)
