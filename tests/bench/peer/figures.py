"""From measurements to rows: a figure of Keepstep's beside a peer's of the same minutes; and the table by peer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tests.bench.peer.api import ENTRIES
from tests.bench.peer.measure import Measured
from tests.bench.row import Row, Target, at_most, ratio_at_most, row

_ASYNC_ALONE = {"call", "call + gate", "interference", "peak PSS"}  # others do it all within the call
_SECONDS = ("call", "call + gate", "interference", "durable", "first durable", "cold load", "warm load",
            "load, half the ranks")
_MILLISECONDS = ("call", "call + gate", "interference")
COLUMNS = (*_SECONDS, "read ÷ unique", "peak PSS")


def _target(measured: Measured, peer: str, figure: str) -> Target | None:
    if figure in ("durable", "cold load", "warm load", "load, half the ranks"):
        return ratio_at_most(1)
    if figure == "read ÷ unique":
        return at_most(1.02, "")
    if not ENTRIES[peer].asynchronous:
        return None
    if figure == "call + gate" and peer.startswith("dcp"):
        return ratio_at_most(1 / 50)
    if figure == "call + gate" and peer == "torch_checkpointing":
        return at_most(round(1000 * statistics.median(measured.peers[peer][figure]) + 0.2, 3), "ms")
    if figure in ("interference", "peak PSS"):
        return ratio_at_most(1)
    return None


def rows(measured: Measured) -> list[Row]:
    name, out = measured.shape.name, []
    for peer, own in measured.beside.items():
        for figure in COLUMNS:
            theirs, ours = measured.peers[peer].get(figure), own.get(figure)
            if not theirs or not ours:
                continue
            unit = "ms" if figure in _MILLISECONDS else "s" if figure in _SECONDS else ""
            scale = measured.shape.state_bytes if figure == "peak PSS" else 1e-3 if unit == "ms" else 1
            shown = f"{figure} ÷ state" if figure == "peak PSS" else figure
            out.append(row(f"{name}: {shown}", [value / scale for value in ours], unit,
                           against=(peer, statistics.median(theirs) / scale), target=_target(measured, peer, figure)))
    every = [run for own in measured.beside.values() for run in own["call"]]
    if every:
        limit = 0.3 + 0.5e-3 * measured.tensors / measured.shape.world
        out.append(row(f"{name}: save call", [1000 * run for run in every], "ms", target=at_most(limit, "ms")))
        disturbed = [1000 * run for own in measured.beside.values() for run in own["interference"]]
        out.append(row(f"{name}: interference", disturbed, "ms", target=ratio_at_most(1.25),
                       against=("memcpy + XXH3", 1000 * statistics.median(measured.reference))))
    if name == "small" and measured.beside:
        best = min(measured.beside, key=lambda peer: statistics.median(measured.peers[peer]["durable"]))
        out.append(row("small: durable, held against the best peer", measured.beside[best]["durable"], "s",
                       against=(best, statistics.median(measured.peers[best]["durable"])), target=ratio_at_most(0.25)))
    return out


def by_peer(measured: Measured) -> str:
    """Medians, for people: one line a library."""
    scale = {"peak PSS": measured.shape.state_bytes}
    lines = [f"{measured.shape.name}: {measured.shape.state_bytes / 1e9:.2f} GB, {measured.tensors} tensors, "
             f"{measured.shape.world} rank(s); seconds, bytes read ÷ unique, peak PSS ÷ state",
             f"{'':22}" + "".join(f"{column[:20]:>21}" for column in COLUMNS)]

    def line(name: str, runs: dict[str, Sequence[float]]) -> str:
        cells = [f"{statistics.median(runs[column]) / scale.get(column, 1):21.4f}" if runs.get(column) else f"{'–':>21}"
                 for column in COLUMNS]
        return f"{name:22}" + "".join(cells)

    for peer, runs in measured.peers.items():
        lines.append(line(peer, dict(runs)))
    joined: dict[str, Sequence[float]] = {
        column: [run for own in measured.beside.values() for run in own.get(column, ())] for column in COLUMNS
    }
    lines.append(line("keepstep", joined))
    if measured.reference:
        lines.append(f"{'memcpy + XXH3':22}{'–':>21}{'–':>21}{statistics.median(measured.reference):21.4f}")
    lines += [f"{peer:22}not measured: {why}" for peer, why in measured.failed.items()]
    return "\n".join(lines)
