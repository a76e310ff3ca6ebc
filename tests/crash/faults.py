"""Makes every system call on storage fail in every way, once and from then on; a separate program judges what is left.

    faults.py [--rounds N] [--hours H] [--all] [--points all|SCENARIO|NAME] [--ledger FILE] [--seed S] [--home DIR]

A round: a job that works; one call of one scenario (sweep.py says which there are) fails, by its point and pass; the
ranks hear what became of their save; the call works again; when the daemon has settled, checker.py judges the job, and
the same daemon must commit the next save. Faults: EIO, ENOSPC, EDQUOT, EINTR, ESTALE for every call; a short write or
read; a call that is made and said to have failed; a flush that fails, drops the data, and would succeed if it were
tried again.

First each point fails at its first pass, in one way after another. With --all, every pass of every point then fails in
every way, once and for good, in random order: 100 % of operations x errors. A ledger has a line for each round, and a
run goes on where it ends. The last line printed is the total, with what N rounds without a finding prove.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import errno
import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.crash.arena import Answer, Arena, Stuck
from tests.crash.control import ANY, CHANGING, points
from tests.crash.sweep import SCENARIOS, Counts, Ledger, act, discover, prepare
from tests.crash.sweep_command import parser, run_at_home

ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EINTR", "ESTALE")
FOREVER_SECONDS = 1.0  # for which a call fails that fails from then on
FULL = {"ENOSPC", "EDQUOT"}
COMING_BACK = {"LOST_BY_RESTART", "DAEMON_LOST"}  # told of a save that was asked for while a rank was reconnecting
DOES_NOT_KNOW = {"DURABILITY_UNCERTAIN", "DECISION_DAMAGED"}


@dataclasses.dataclass(frozen=True)
class Fault:
    number: int
    scenario: str
    point: str
    nth: int
    way: str  # an error, "short", "lost" or "dropped"
    forever: bool

    def what(self) -> tuple[str, str, int, str, bool]:
        """All but the number: how often a point is passed, and so the plan's numbers, differ from run to run."""
        return self.scenario, self.point, self.nth, self.way, self.forever


def ways(point: str) -> list[str]:
    call, _, side = point.split()
    if side == "after":
        return ["lost"] if call in CHANGING and call != "close" else []
    more = ["short"] if call in ("read", "write") else ["dropped"] if point.startswith("sync blob") else []
    return [*ERRORS, *more]


def plan(counts: Counts, only: str, everything: bool, seed: int) -> Iterator[Fault]:
    rng = random.Random(seed)
    first, rest = [], []
    for scenario in SCENARIOS:
        for turn, point in enumerate(sorted(counts[scenario])):
            if only not in ("all", scenario, point) or point.split()[0] == "send":
                continue
            possible = ways(point)
            if not possible:
                continue
            first.append((scenario, point, 1, possible[turn % len(possible)], turn % 5 == 4))
            if everything:
                passes = range(1, counts[scenario][point] + 1)
                every = ((scenario, point, nth, way, forever)
                         for nth, way, forever in itertools.product(passes, possible, (False, True)))
                rest += [what for what in every if what != first[-1]]
    rng.shuffle(first)
    rng.shuffle(rest)
    return (Fault(number, *what) for number, what in enumerate(first + rest))


def arm(arena: Arena, this: Fault) -> None:
    """The call works again after a while, whatever the driver waits for meanwhile: a start may ask for as long."""
    small = 512 if this.point.split()[1] == "blob" else 5
    error = {"short": 0, "lost": errno.EIO, "dropped": errno.EIO}.get(this.way) if this.way not in ERRORS else None
    arena.control.fail(arena.control.names.index(this.point), this.nth,
                       getattr(errno, this.way) if error is None else error,
                       most_bytes=small, forever=this.forever, drop=this.way == "dropped")
    mended = threading.Timer(FOREVER_SECONDS, arena.control.disarm_from, (arena.control.armings,))
    mended.daemon = True
    mended.start()


def play(arena: Arena, this: Fault) -> list[str]:
    prepare(arena, this.scenario)
    arena.kills, arena.fired, arena.told, arena.refused = 0, [], [], 0
    if this.scenario == "recovery":
        arena.nested = [lambda _: arm(arena, this)]
        arena.control.arm(ANY, random.Random(this.number).randrange(20, 150))
        arena.save()
        arena.tend()
    else:
        arm(arena, this)
        act(arena, this.scenario)
    told = list(arena.told)
    if (point := arena.control.take_fired()) is not None:
        arena.fired.append(point)
    if any(answer.get("reason") in DOES_NOT_KNOW for answer in told):
        arena.kill()  # the protocol leaves such a save as it is until a restart, which settles it
    pid = arena.daemon.pid
    findings = arena.settle() + judge(this, told)
    arena.told = []
    if not arena.save() and not (any(answer.get("reason") in COMING_BACK for answer in arena.told) and arena.save()):
        findings.append("the daemon does not commit the next save")
    arena.told = told + arena.told
    if arena.daemon.pid != pid or not arena.daemon.alive():
        findings.append("the daemon ended")
    return findings


def judge(this: Fault, told: list[Answer]) -> list[str]:
    """What is wrong with how the failure was told."""
    failed = [answer for answer in told if answer.get("state") == "FAILED"]
    findings = [f"no reason: {answer}" for answer in failed if not answer["reason"] or not answer["code"]]
    if this.way in FULL and this.scenario in ("save", "epoch") and "before" in this.point:
        findings += [f"{this.way} told as {answer['code']} {answer['reason']}" for answer in failed
                     if answer["code"] != "RESOURCE_EXHAUSTED" and answer["reason"] not in DOES_NOT_KNOW]
    return findings


def mend(arena: Arena, findings: list[str]) -> None:
    """After a finding: a daemon that has not seen it."""
    if findings:
        arena.control.disarm()
        arena.control.take_fired()
        arena.kill()


def run(arguments: argparse.Namespace, home: Path) -> int:
    ledger = Ledger(arguments.ledger)
    deadline = time.monotonic() + arguments.hours * 3600 if arguments.hours else float("inf")
    outcomes: collections.Counter[str] = collections.Counter()
    found = played = 0
    with Arena(home, points()) as arena:
        arena.new_job()
        counts = discover(arena, everything=True)
        rounds = list(plan(counts, arguments.points, arguments.all, arguments.seed))
        done = {Fault(**{field.name: row[field.name] for field in dataclasses.fields(Fault)}).what()
                for row in ledger.rows.values()}
        for this in rounds:
            if time.monotonic() > deadline or played == (arguments.rounds or -1):
                break
            if this.what() in done:
                continue
            this = dataclasses.replace(this, number=len(ledger.rows))
            begin = time.monotonic()
            stuck = False
            try:
                findings = play(arena, this)
            except Stuck as error:
                findings, stuck = [f"stuck: {error}"], True
            for answer in arena.told:
                if "state" in answer:
                    outcomes[f"{this.way}: {answer['state']} {answer.get('code', '')} {answer.get('reason', '')}"] += 1
            ledger.add({**dataclasses.asdict(this), "kills": arena.kills, "fired": arena.fired,
                        "refused": arena.refused, "findings": findings,
                        "seconds": round(time.monotonic() - begin, 3)})
            played += 1
            if findings:
                found += 1
                print(f"round {this.number} ({this.scenario}, {this.point}, pass {this.nth}, {this.way}"
                      f"{', for good' if this.forever else ''}): {findings}", flush=True)
            if stuck:
                break
            mend(arena, findings)
            arena.round_over(clean=not findings)
    for outcome, count in sorted(outcomes.items()):
        print(f"  {count:5} {outcome}")
    print(total(list(ledger.rows.values()), counts, len(rounds)))
    return 1 if found else 0


def total(rows: list[Answer], counts: Counts, planned: int) -> str:
    hit = [row for row in rows if row["fired"] or row["refused"]]
    bad = sum(bool(row["findings"]) for row in rows)
    covered = {(row["scenario"], row["point"]) for row in hit}
    points = covered | {(scenario, point) for scenario, of in counts.items() for point in of
                        if ways(point) and point.split()[0] != "send"}
    bound = f", failure rate below {3 / len(hit):.2g} (95 %)" if hit and not bad else ""
    return (f"{len(rows)} of {planned} rounds: {len(hit)} calls failed at {len(covered)} of {len(points)} points, "
            f"{sum(row['refused'] for row in rows)} starts refused: {bad} findings{bound}")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--all", action="store_true", help="every pass, every way, once and for good")
    return run_at_home(run, options.parse_args())


if __name__ == "__main__":
    sys.exit(main())
