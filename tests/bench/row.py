"""A figure, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass
class Row:
    """One figure: the median of `runs` unless its name says otherwise, beside what the same run held it against."""

    figure: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float
    target: str
    met: bool | None  # None: no target
    runs: list[float]


@dataclass(frozen=True)
class Target:
    text: str
    reached: Callable[[float, float], bool]  # of value and ratio


def at_most(limit: float, unit: str) -> Target:
    return Target(f"≤ {limit:g} {unit}".strip(), lambda value, ratio: value <= limit)


def at_least(limit: float, unit: str) -> Target:
    return Target(f"≥ {limit:g} {unit}".strip(), lambda value, ratio: value >= limit)


def ratio_at_most(limit: float) -> Target:
    return Target(f"≤ {limit:g} × reference", lambda value, ratio: ratio <= limit)


def ratio_at_least(limit: float) -> Target:
    return Target(f"≥ {limit:g} × reference", lambda value, ratio: ratio >= limit)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are at or below: of few values the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def row(figure: str, runs: Sequence[float], unit: str, *, against: tuple[str, float] = ("-", 0.0),
        target: Target | None = None, value: float | None = None) -> Row:
    """`value` defaults to the median."""
    chosen = statistics.median(runs) if value is None else value
    ratio = chosen / against[1] if against[1] else 0.0
    met = None if target is None else target.reached(chosen, ratio)
    return Row(figure, chosen, unit, *against, ratio, "-" if target is None else target.text, met, list(runs))


def table(rows: Sequence[Row]) -> str:
    """For people."""
    lines = [f"{'figure':58} {'value':>10} {'unit':6} {'least':>10} {'most':>10}  {'reference':28} {'':>10} "
             f"{'ratio':>6}  {'target':18} met"]
    for one in rows:
        met = {None: "", True: "yes", False: "NO"}[one.met]
        reference = f"{one.reference:28} {one.reference_value:10.1f} {one.ratio:6.2f}" if one.reference_value else (
            f"{'-':28} {'':10} {'':6}")
        lines.append(f"{one.figure:58} {one.value:10.2f} {one.unit:6} {min(one.runs):10.2f} {max(one.runs):10.2f}  "
                     f"{reference}  {one.target:18} {met}")
    return "\n".join(lines)
