"""What networks of each size take in a runtime, measured once: a search by latency goes by this table alone.

A table is size -> milliseconds. Sizes that are no faster than a larger one are worth nothing and leave the
ladder of the search; what is left falls in both, so that the smallest network is the fastest of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn

SIZES = 48  # of a ladder, that are measured at most


def thinned(sizes: Sequence[int], most: int = SIZES) -> tuple[int, ...]:
    """At most so many of the sizes, evenly spread over the ladder, with the first and the last.

    >>> thinned((100, 90, 81, 73, 66), 3)
    (100, 81, 66)
    """
    if len(sizes) <= most:
        return tuple(sizes)
    return tuple(sizes[round(place * (len(sizes) - 1) / (most - 1))] for place in range(most))


def measure_sizes(
    sizes: Iterable[int], network: Callable[[int], nn.Module], latency: Callable[[nn.Module], float]
) -> dict[int, float]:
    """The table: latency(network(size)) for each size, in turn."""
    return {size: float(latency(network(size))) for size in sizes}


def faster_sizes(table: Mapping[int, float], total: int) -> tuple[int, ...]:
    """The sizes that are faster than every larger one, the whole network (`total`) first.

    Raises ValueError for a table without the whole network, with times that are none, or in which nothing is
    faster than it.

    >>> faster_sizes({100: 5.0, 80: 5.1, 60: 4.0, 40: 4.2, 20: 3.0}, 100)
    (100, 60, 20)
    """
    for size, time in table.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= total:
            raise ValueError(f"size {size!r} of the latencies is not a whole number from 0 to {total:,}")
        if isinstance(time, bool) or not isinstance(time, (int, float)) or not 0 < time < math.inf:
            raise ValueError(f"latency {time!r} of size {size:,} is not a number above 0 (milliseconds)")
    if total not in table:
        raise ValueError(f"the latencies lack that of the whole network, size {total:,}")
    found, fastest = [total], table[total]
    for size in sorted(table, reverse=True):
        if table[size] < fastest:
            found.append(size)
            fastest = table[size]
    if len(found) == 1:
        raise ValueError(
            f"no size is faster than the whole network, which takes {table[total]:.3g} ms: a runtime that "
            "skips what is pruned, or units that it can leave out, would be"
        )
    return tuple(found)
