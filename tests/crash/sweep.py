"""Kills the daemon at every step of what it does, restarts it, and has a separate program judge what is left.

    sweep.py [--rounds N] [--hours H] [--points all|SCENARIO|NAME] [--ledger FILE] [--seed S] [--home DIR]

A round: a job that works; one point armed; one scenario; the daemon dies there, and in some rounds again while it
recovers, up to three times; it is restarted; the ranks hear what became of their save and go on; when it has settled,
checker.py judges the job, and the next save must be committed. Every third round ends the daemon by SIGKILL at a random
moment instead.

The ledger has a line for each round, and a sweep goes on where its ledger ends. The last line printed is the total,
with what N rounds without a finding prove: a failure rate below 3/N (95 %). Exit status 1 if this run found something.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.crash.arena import Arena, Stuck
from tests.crash.control import ANY, CHANGING, points
from tests.crash.sweep_command import parser, run_at_home

SCENARIOS = ("save", "abort", "delete", "epoch", "recovery")
NESTED_MOST = 3  # kills of the starts after a kill
RANDOM_EVERY = 3
NESTED_EVERY = 4
SAVE_SECONDS = 0.03  # about what a save takes: within it random kills fall
Counts = dict[str, dict[str, int]]  # scenario → point → passes


@dataclasses.dataclass(frozen=True)
class Round:
    number: int
    scenario: str
    point: str  # or "SIGKILL"
    nth: int
    nested: int
    seed: int


def prepare(arena: Arena, scenario: str) -> None:
    """What the scenario needs, without a kill."""
    while scenario == "delete" and len(arena.committed) < 2:
        arena.save()
    if scenario == "abort":
        arena.save()  # so that there is a plan, and a rank is copied before the others have arrived


def act(arena: Arena, scenario: str) -> None:
    {"save": arena.save, "abort": arena.abort, "delete": arena.delete, "epoch": arena.epoch}[scenario]()


def discover(arena: Arena, *, everything: bool = False) -> Counts:
    """Which points each scenario passes, how often: every step that changes something, or every one there is."""
    counts: Counts = {}
    arena.save()  # the first one of a job makes more than others do
    for scenario in SCENARIOS:
        prepare(arena, scenario)
        arena.control.forget()
        if scenario == "recovery":
            arena.control.arm(arena.control.names.index("link part after"), 1)
            arena.save()
        else:
            act(arena, scenario)
        passes = arena.control.passes()
        while (now := arena.quiet_passes()) != passes:
            passes = now
        if findings := arena.settle():
            raise Stuck(f"{scenario} without a kill: {findings}")
        counts[scenario] = {name: passes[name] for name in passes if everything or name.split()[0] in CHANGING}
    return counts


def plan(counts: Counts, only: str, seed: int) -> Iterator[Round]:
    """Rounds without end: every point of every scenario at its first pass, then at random ones; SIGKILLs between."""
    pairs = [(scenario, point) for scenario in SCENARIOS for point in sorted(counts[scenario])
             if only in ("all", scenario, point)]
    if not pairs:
        raise SystemExit(f"no point that is passed is called {only!r}")
    rng = random.Random(seed)
    number = 0
    for sweep in range(1 << 30):
        rng.shuffle(pairs)
        for scenario, point in pairs:
            if only == "all" and number % RANDOM_EVERY == RANDOM_EVERY - 1:
                nested = rng.randrange(NESTED_MOST + 1)
                yield Round(number, rng.choice(SCENARIOS[:4]), "SIGKILL", 0, nested, rng.randrange(1 << 30))
                number += 1
            nth = 1 if sweep == 0 else rng.randrange(1, counts[scenario][point] + 1)
            nested = rng.randrange(1, NESTED_MOST + 1) if number % NESTED_EVERY == 0 else 0
            yield Round(number, scenario, point, nth, nested, rng.randrange(1 << 30))
            number += 1


def play(arena: Arena, this: Round) -> list[str]:
    """One round; its findings."""
    rng = random.Random(this.seed)
    prepare(arena, this.scenario)
    arena.kills, arena.fired = 0, []
    passes = [rng.randrange(1, 80) for _ in range(this.nested)]
    arena.nested = [lambda control, nth=nth: control.arm(ANY, nth) for nth in passes]  # type: ignore[misc]
    if this.scenario == "recovery":  # of a save that was cut off somewhere
        arena.nested.insert(0, lambda control: control.arm(control.names.index(this.point), this.nth))
        arena.control.arm(ANY, rng.randrange(20, 150))
        arena.save()
        arena.tend()
    elif this.point == "SIGKILL":
        arena.set_alarm(rng.random() * SAVE_SECONDS, arena.kill)
        act(arena, this.scenario)
        arena.ring()
    else:
        arena.control.arm(arena.control.names.index(this.point), this.nth)
        act(arena, this.scenario)
    findings = arena.settle()
    arena.nested = []
    if not findings and not arena.save():
        findings = ["the save after the kill was not committed"]
    return findings


class Ledger:
    """Rounds by number, on disk if there is a file for them."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.rows: dict[int, dict[str, Any]] = {}
        if path is not None and path.exists():
            self.rows = {row["number"]: row for row in map(json.loads, path.read_text().splitlines())}

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["number"]] = row
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def total(self, counts: Counts) -> str:
        rows = list(self.rows.values())
        bad = sum(bool(row["findings"]) for row in rows)
        hit = {(row["scenario"], row["point"]) for row in rows if row["kills"] and row["point"] != "SIGKILL"}
        bound = f", failure rate below {3 / len(rows):.2g} (95 %)" if rows and not bad else ""
        return (f"ledger: {len(rows)} rounds, {sum(row['kills'] for row in rows)} kills "
                f"({sum(row['point'] == 'SIGKILL' for row in rows)} rounds at a random moment, "
                f"{sum(row['kills'] > 1 for row in rows)} killed again while recovering), "
                f"{len(hit)} of {sum(map(len, counts.values()))} points: {bad} findings{bound}")


def run(arguments: argparse.Namespace, home: Path) -> int:
    ledger = Ledger(arguments.ledger)
    deadline = time.monotonic() + arguments.hours * 3600 if arguments.hours else float("inf")
    played = found = 0
    with Arena(home, points()) as arena:
        arena.new_job()
        counts = discover(arena)
        each = (f"{name} {len(of)} ({sum(of.values())} times)" for name, of in counts.items())
        print("points passed: " + ", ".join(each))
        for this in plan(counts, arguments.points, arguments.seed):
            if time.monotonic() > deadline or played == (arguments.rounds or -1):
                break
            if this.number in ledger.rows:
                continue
            begin = time.monotonic()
            stuck = False
            try:
                findings = play(arena, this)
            except Stuck as error:
                findings, stuck = [f"stuck: {error}"], True
            ledger.add({**dataclasses.asdict(this), "sweep_seed": arguments.seed, "kills": arena.kills,
                        "fired": arena.fired, "findings": findings, "seconds": round(time.monotonic() - begin, 3)})
            played += 1
            if findings:
                found += 1
                print(f"round {this.number} ({this.scenario}, {this.point}, pass {this.nth}): {findings}", flush=True)
            if stuck:
                break
            arena.round_over(clean=not findings)
        arena.finish()
    told = arena.totals
    print(f"this run: {played} rounds; ranks were told {told['told_committed']} times committed, {told['told_failed']} "
          f"failed; {told['checkpoints']} checkpoints compared, {told['loads']} loads")
    print(ledger.total(counts))
    return 1 if found else 0


def main() -> int:
    options = parser(__doc__)
    arguments = options.parse_args()
    if not arguments.rounds and not arguments.hours:
        options.error("say --rounds or --hours")
    return run_at_home(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
