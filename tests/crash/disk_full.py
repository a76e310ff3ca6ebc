"""Saves onto a file system that has 0 to 110 % of what a save needs, with the catalog on it too.

    disk_full.py [--step PERCENT]     as root; the file system is a tmpfs in a mount namespace of this program's own

Sizes are percents of what a save takes, and single pages around all of it. For each: the save is committed, or
refused with RESOURCE_EXHAUSTED in a sentence that speaks of space, within ANSWER_SECONDS; the earlier checkpoint is
there, bit-exact; a job elsewhere commits meanwhile; what the refused save took comes back; and once there is room
again the same daemon commits.

Then, with no room for the catalog: the daemon starts, deletes, and commits once there is some. And with no room at
all: a daemon that was killed starts, a new run of the job opens and loads, checkpoints are deleted by hand, and a run
that keeps one goes on in the room of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keepstep
import numpy as np

from tests.harness.daemon import Daemon

BYTES = 4 << 20
ROOM = 1 << 30
PAGE = 4096
PAGES_AROUND = 6
ANSWER_SECONDS = 30.0  # 5 s is the daemon's own limit, a busy machine has the rest
# RocksDB writes its log on, and goes over to a new one after an error; it sets room for a log aside beforehand.
CATALOG_GROWS = 512 << 10
SETTLE_SECONDS = 30.0


class Disk:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(path)], check=True)

    def used(self) -> int:
        about = os.statvfs(self.path)
        return (about.f_blocks - about.f_bfree) * about.f_frsize

    def leave(self, free: int | None) -> None:
        """Bytes free from now on; None: plenty."""
        for tries in range(10, 0, -1):  # the daemon may take some between the look and the limit
            size = ROOM if free is None else max(self.used() + free, PAGE)
            done = subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=tries == 1,
                                  capture_output=True)
            if done.returncode == 0:
                return


class Trainer:
    """A run of one rank, whose tensor holds what its step says."""

    def __init__(self, job: Path, daemon: Daemon, keep_last: int | None = None) -> None:
        self.job = job
        self.value = np.zeros(BYTES // 4, np.uint32)
        self.checkpointer = keepstep.Checkpointer(job, daemon=daemon.address, rank=0, world_size=1, rng=False,
                                                  gated=True, max_failures=1 << 30, keep_last=keep_last)
        self.checkpointer.register(model={"value": self.value})

    def save(self, step: int) -> keepstep.KeepstepError | None:
        """Why it was not committed, or not known to be in time."""
        try:
            self.checkpointer.before_update()
            np.copyto(self.value, content(step))
            return self.checkpointer.save(step).exception(ANSWER_SECONDS)
        except keepstep.KeepstepError as error:
            return error

    def close(self) -> None:
        self.checkpointer.close(ANSWER_SECONDS)


def content(step: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.random.default_rng(step).integers(0, 1 << 32, BYTES // 4, np.uint32)


def stored(job: Path, step: int) -> bool:
    try:
        return bool(np.array_equal(keepstep.open(job, step).tensor("value")[:], content(step)))
    except keepstep.KeepstepError:
        return False


class Sweep:
    def __init__(self, home: Path) -> None:
        self.disk = Disk(home / "disk")
        self.job, self.elsewhere = self.disk.path / "job", home / "elsewhere"
        self.step = 0
        self.refused, self.committed = 0, 0
        self.smallest: str | None = None  # size at which a save was committed
        self.slowest = 0.0
        self.findings: list[str] = []
        self.daemon = Daemon(home, "--state-dir", str(self.disk.path / "state"), "--pool-bytes", str(64 << 20))

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.findings.append(what)

    def command(self, *arguments: str) -> None:
        done = self.daemon.command(*arguments)
        self.check(done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}")

    def run(self, percents: list[int]) -> None:
        with self.daemon:
            trainer, other = Trainer(self.job, self.daemon), Trainer(self.elsewhere, self.daemon, keep_last=2)
            assert other.save(0) is None
            before = self.disk.used()
            assert trainer.save(0) is None
            need = self.disk.used() - before
            sizes = {need * percent // 100: f"{percent} %" for percent in percents}
            sizes |= {need + pages * PAGE: f"need {pages:+} pages" for pages in range(-PAGES_AROUND, PAGES_AROUND + 1)}
            for free, name in sorted(sizes.items()):
                self.at(trainer, other, free, name)
            self.catalog_with_no_room(other)
            other.close()
            self.with_no_room(trainer)

    def timed_save(self, trainer: Trainer, name: str) -> keepstep.KeepstepError | None:
        self.step += 1
        begin = time.monotonic()
        failure = trainer.save(self.step)
        self.slowest = max(self.slowest, time.monotonic() - begin)
        if failure is not None and (failure.code != "RESOURCE_EXHAUSTED" or "space" not in str(failure).lower()):
            self.findings.append(f"{name}: {failure.code} {failure.reason}: {failure}")
        return failure

    def at(self, trainer: Trainer, other: Trainer, free: int, name: str) -> None:
        kept, before = self.step, self.disk.used()
        self.disk.leave(free)
        failure = self.timed_save(trainer, name)
        self.refused += failure is not None
        self.committed += failure is None
        if failure is None:
            self.smallest = self.smallest or name
        beside = other.save(self.step)
        self.check(beside is None, f"{name}: the job elsewhere: {beside!r}")
        if failure is not None:
            grown = self.await_space(before)
            self.check(grown <= CATALOG_GROWS, f"{name}: {grown} bytes did not come back")
        for step in {kept, kept if failure else self.step}:
            self.check(stored(self.job, step), f"{name}: checkpoint {step} is damaged")
        attempted = self.step
        self.disk.leave(None)
        again = self.timed_save(trainer, name)
        self.check(again is None, f"{name}: with room again: {again!r}")
        if again is not None:
            self.step = kept
            return
        self.command("rm", "--yes", f"{self.job}/{kept}")
        if failure is None:
            self.command("rm", "--yes", f"{self.job}/{attempted}")

    def await_space(self, before: int) -> int:
        deadline = time.monotonic() + SETTLE_SECONDS
        while (grown := self.disk.used() - before) > CATALOG_GROWS and time.monotonic() < deadline:
            pass
        return grown

    def catalog_with_no_room(self, other: Trainer) -> None:
        """Not even that of its reserve, which the first start spends; the job's own disk has room."""
        for _ in range(2):
            self.check(self.timed_save(other, "two to have") is None, "a save that has room is refused")
        for _ in range(3):
            self.disk.leave(0)
            self.daemon.kill()
            self.disk.leave(0)
            self.attempt("a start without room for the catalog", self.daemon.start)
        self.disk.leave(0)
        self.command("rm", "--yes", f"{self.elsewhere}/{self.step - 1}")
        self.timed_save(other, "a catalog without room")
        self.disk.leave(None)
        self.check(self.timed_save(other, "a catalog with room again") is None, "a save is refused once there is room")
        self.check(stored(self.elsewhere, self.step), "what was saved beside a full catalog is damaged")

    def with_no_room(self, trainer: Trainer) -> None:
        for _ in range(3):
            assert self.timed_save(trainer, "more to delete") is None
        kept = self.step
        self.disk.leave(0)
        self.check(self.timed_save(trainer, "no room") is not None, "4 MiB were saved in no room")
        trainer.close()
        self.daemon.kill()
        self.disk.leave(0)
        self.attempt("a start with no room", self.daemon.start)
        self.attempt("a new run with no room", lambda: self.load(kept))
        for step in (kept - 2, kept - 1):
            self.command("rm", "--yes", f"{self.job}/{step}")
        self.attempt("saves into the room of deleted ones", lambda: self.go_on(kept))
        self.check(self.daemon.alive(), "the daemon ended")

    def attempt(self, name: str, what: Callable[[], object]) -> None:
        begin = time.monotonic()
        try:
            what()
        except Exception as error:  # whatever it is, it is the finding
            self.findings.append(f"{name}: {error!r}")
        self.slowest = max(self.slowest, time.monotonic() - begin)

    def load(self, step: int) -> None:
        trainer = Trainer(self.job, self.daemon)
        loaded = trainer.checkpointer.load()
        self.check(loaded == step and bool(np.array_equal(trainer.value, content(step))),
                   f"a new run with no room loads {loaded}")
        trainer.close()

    def go_on(self, kept: int) -> None:
        """There is room for one more, less what was set aside; each further one gets that of the one before."""
        trainer = Trainer(self.job, self.daemon, keep_last=1)
        self.check(trainer.checkpointer.load() == kept, "the newest is not loaded")
        for step in range(kept + 1, kept + 4):
            failure = trainer.save(step)
            self.check(failure is None, f"a save that collects to have room: {failure!r}")
        self.check(stored(self.job, kept + 3), "what was saved after a collection is damaged")
        trainer.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1, help="between sizes, in percent")
    parser.add_argument("--unshared", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.unshared:
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "tests.crash.disk_full", "--unshared",
                              "--step", str(arguments.step)])
    home = Path(tempfile.mkdtemp(prefix="ksf-"))
    sweep = Sweep(home)
    try:
        sweep.run(list(range(0, 111, arguments.step)))
    finally:
        subprocess.run(["umount", "--lazy", str(home / "disk")], check=False)
        shutil.rmtree(home, ignore_errors=True)
    for finding in sweep.findings:
        print(finding)
    print(f"{sweep.refused + sweep.committed} sizes: {sweep.refused} refused, {sweep.committed} committed, the first "
          f"at {sweep.smallest}; slowest answer {sweep.slowest:.1f} s: {len(sweep.findings)} findings")
    return 1 if sweep.findings else 0


if __name__ == "__main__":
    sys.exit(main())
