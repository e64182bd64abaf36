"""What all benchmarks share: two things run in turns, and the row that tells how they compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def row(
    name: str, ratio: float, limit: float | None, n: int, ours: float, theirs: float, unit: str, **more: object
) -> Row:
    """One comparison.

    Args:
        name: of the benchmark and what it compares.
        ratio: the comparison, more is better.
        limit: what the ratio shall reach; None where nothing is demanded.
        n: number of measurements behind the ratio.
        ours, theirs: both sides' figures. A time of one run means nothing beside that of another.
        unit: of the two figures.
        **more: further figures.
    """
    return {"name": name, "ratio": ratio, "limit": limit, "n": n, "ours": ours, "theirs": theirs, "unit": unit, **more}


def in_turns(
    *steps: Callable[[], object], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Milliseconds of each step in each round; a load on the machine then falls on all of them."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, taken in zip(steps, times, strict=True):
            start = clock()
            step()
            taken.append(1000 * (clock() - start))
    return times


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [f"{'':44} {'ratio':>7} {'limit':>6} {'n':>5} {'ours':>10} {'theirs':>10}"]
    for r in rows:
        limit = "" if r["limit"] is None else f"{r['limit']:.2f}"
        figures = f"{r['ratio']:7.3f} {limit:>6} {r['n']:5d} {r['ours']:10.2f} {r['theirs']:10.2f}"
        lines.append(f"{r['name']:44} {figures} {r['unit']}")
    return "\n".join(lines)
