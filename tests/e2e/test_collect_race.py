"""Load, delete, collect, pin and kill at once: the last good checkpoint, pinned ones and those in use are kept.

A round is one save with keep_last=2 while readers load, somebody pins, removes or collects, and, in half of the rounds,
the daemon is killed at a random moment and started again. KEEPSTEP_COLLECT_ROUNDS=2000 runs the whole sweep.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import keepstep
import numpy as np

from tests.harness.daemon import Daemon

ROUNDS = int(os.environ.get("KEEPSTEP_COLLECT_ROUNDS", "40"))
ELEMENTS = 64 * 1024
# What an interrupted or late reader may be told. Never other bytes than its step's.
GONE = {"NOT_FOUND", "UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED", "UNAUTHENTICATED"}


class Race:
    def __init__(self, home: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.daemon = Daemon(home).start()
        self.job = self.daemon.root / "race"
        self.job.mkdir()
        self.committed: list[int] = []
        self.pinned: set[int] = set()
        self.wrong: list[str] = []
        self.counts = dict.fromkeys(
            ("saves", "commits", "loads", "gone", "kills", "pins", "removals", "collections"), 0)
        self.weights = np.zeros(ELEMENTS, dtype=np.float32)
        self.trainer = keepstep.Checkpointer(self.job, daemon=self.daemon.address, rank=0, world_size=1, rng=False,
                                             keep_last=2, max_failures=1 << 30)
        self.trainer.register(model={"w": self.weights})
        self.trainer.load()

    def save(self, step: int) -> None:
        self.trainer.before_update()
        self.weights.fill(step)
        self.counts["saves"] += 1
        try:
            handle = self.trainer.save(step)
            if handle.exception(60) is None:
                self.committed.append(step)
                self.counts["commits"] += 1
        except keepstep.KeepstepError as error:
            if error.code not in GONE and error.code != "ALREADY_EXISTS":
                self.wrong.append(f"save of {step}: {error.code} {error.reason} {error}")

    def load(self, step: int | str, must: bool = False) -> None:
        into = np.full(ELEMENTS, -1, dtype=np.float32)
        try:
            with keepstep.Checkpointer(self.job, daemon=self.daemon.address, rank=0, world_size=1, rng=False,
                                       read_only=True) as ck:
                ck.register(model={"w": into})
                got = ck.load(step)  # type: ignore[arg-type]
        except keepstep.KeepstepError as error:
            if must or error.code not in GONE:
                self.wrong.append(f"load of {step}: {error.code} {error.reason} {error}")
            self.counts["gone"] += 1
            return
        self.counts["loads"] += 1
        if got is not None and not (into == got).all():
            self.wrong.append(f"load of {step} gave {got}, but the bytes of {sorted(set(into.tolist()))[:3]}")
        if must and got is None:
            self.wrong.append("there is no checkpoint any more")

    def meddle(self, what: int, step: int) -> None:
        if what == 0:
            done = self.daemon.command("pin", f"race/{step}", "--as", f"p{step}")
            if done.returncode == 0:
                self.pinned.add(step)
                self.counts["pins"] += 1
        elif what == 1 and step not in self.pinned:
            self.counts["removals"] += self.daemon.command("rm", "--yes", f"race/{step}").returncode == 0
        elif what == 2:
            done = self.daemon.command("gc", "race", "--yes", "--keep-last", "1")
            self.counts["collections"] += done.returncode == 0
        elif what == 3 and self.pinned:
            old = self.random.choice(sorted(self.pinned))
            self.pinned.discard(old)
            self.daemon.command("pin", f"race/{old}", "--as", f"p{old}", "--remove")

    def round(self, step: int) -> None:
        kill = self.random.random() < 0.5
        moment = self.random.uniform(0.0, 0.12)
        newest, older = ([0, 0, *self.committed])[-1:-3:-1]
        loaded = self.random.choice(["latest", newest, older])
        meddled = (self.random.randrange(4), self.random.choice([newest, older]))
        threads = [threading.Thread(target=self.save, args=(step,)), threading.Thread(target=self.load, args=(loaded,)),
                   threading.Thread(target=self.meddle, args=meddled)]
        for thread in threads:
            thread.start()
        if kill:
            time.sleep(moment)  # when, not until: any moment will do
            self.daemon.kill()
            self.daemon.start()
            self.counts["kills"] += 1
        for thread in threads:
            thread.join()
        self.load("latest", must=bool(self.committed))

    def close(self) -> None:
        self.trainer.close(60)
        self.daemon.kill()


def test_what_must_stay_stays(home: Path) -> None:
    seed = int(os.environ.get("KEEPSTEP_COLLECT_SEED", "20251125"))
    race = Race(home, seed)
    began = time.monotonic()
    try:
        for step in range(1, ROUNDS + 1):
            race.round(step)
            if step % 20 == 0:
                for pinned in sorted(race.pinned):
                    race.load(pinned, must=True)
            assert not race.wrong, f"seed {seed}, round {step}: {race.wrong[:5]}\n{race.daemon.tail()}"
        gc = race.daemon.command("gc", "race", "--yes")
        assert gc.returncode == 0, gc.stderr
        for pinned in sorted(race.pinned):
            race.load(pinned, must=True)
            verified = race.daemon.command("verify", f"race/{pinned}")
            assert verified.returncode == 0, verified.stderr
        race.load("latest", must=True)
        assert not race.wrong, race.wrong
        # Nothing half deleted, no space lost: what is left are whole checkpoints, records of aborts, and epochs.
        for attempt in race.job.glob("0*/e*"):
            names = {path.name for path in attempt.iterdir()}
            assert "DELETING" not in names, attempt
            assert "part-0.pb" in names or names <= {"DECISION"}, (attempt, names)
    finally:
        race.close()
    said = ", ".join(f"{count} {what}" for what, count in race.counts.items())
    print(f"{ROUNDS} rounds in {time.monotonic() - began:.0f} s: {said}; 0 wrong, 0 lost")
    assert race.counts["commits"] > ROUNDS // 4, "too little happened to prove anything"
