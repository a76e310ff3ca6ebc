"""What the figures beside other libraries are held against."""

from __future__ import annotations

from tests.bench.peer.figures import by_peer, rows
from tests.bench.peer.measure import Measured
from tests.bench.peer.workload import workload
from tests.bench.row import Row


def measured(name: str) -> Measured:
    ours = {"call": [0.001], "call + gate": [0.002], "interference": [0.1], "durable": [0.2], "cold load": [0.5],
            "read ÷ unique": [1.0], "peak PSS": [2e9]}
    slow = {figure: [10 * run for run in runs] for figure, runs in ours.items()}
    quick = {**slow, "durable": [0.4], "cold load": [0.25]}
    return Measured(workload(name, quick=True), tensors=2000, reference=[0.1], failed={"orbax async": "no such file"},
                    peers={"dcp async, thread": slow, "safetensors + fsync": quick},
                    beside={"dcp async, thread": ours, "safetensors + fsync": ours})


def found(rows: list[Row], figure: str, reference: str) -> Row:
    [one] = [row for row in rows if row.figure == figure and row.reference == reference]
    return one


def test_each_figure_is_held_against_each_peer() -> None:
    out = rows(measured("small"))
    gate = found(out, "small: call + gate", "dcp async, thread")
    assert (gate.value, gate.unit, gate.met) == (2.0, "ms", False), "a tenth is not a fiftieth"
    assert found(out, "small: interference", "dcp async, thread").met
    assert found(out, "small: interference", "safetensors + fsync").met is None, "it does everything within its call"
    assert found(out, "small: cold load", "dcp async, thread").met
    assert found(out, "small: cold load", "safetensors + fsync").met is False
    assert not [row for row in out if row.figure == "small: warm load"], "it was not measured"
    call = found(out, "small: save call", "-")
    assert call.met and call.target == "≤ 1.3 ms"


def test_small_tensors_are_held_against_the_best_peer() -> None:
    best = found(rows(measured("small")), "small: durable, held against the best peer", "safetensors + fsync")
    assert (best.ratio, best.met) == (0.5, False), "a quarter is asked for"
    assert not [row for row in rows(measured("gpt")) if "best peer" in row.figure]


def test_what_failed_is_listed_with_its_reason() -> None:
    table = by_peer(measured("gpt"))
    assert "orbax async           not measured: no such file" in table
    assert "keepstep " in table and "memcpy + XXH3" in table
