"""Pull the plug: a training job that is killed again and again, and what is left of it.

    deploy/demo.sh pull-the-plug [--kills N] [--seed N]

 1. Four processes train a GPT (FSDP2 × TP) without a mishap: the losses to compare with.
 2. The same job is killed by SIGKILL in the middle of saves: a random trainer (the launcher ends the others), or the
    daemon, which is started again under the running training. Each new run resumes at the newest committed step.
 3. Three processes resume what is left in another layout.
 4. A program that shares no code with Keepstep (tests/crash/checker.py) compares every checkpoint and every load with
    what the trainers had noted.

Exit status 0: every loss is, bit for bit, that of the run that was never killed (in the other layout: within its
arithmetic), every resume was at the newest committed step, and the checker found nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.harness.daemon import REPOSITORY, Daemon

sys.path.insert(0, str(REPOSITORY / "client/python"))

import keepstep

from tests.quickstart.story import say, table
from tests.training.progress import Progress
from tests.training.rank import Task
from tests.training.ranks import Event, Ranks

KILLS = 20
SAVE_EVERY = 4
AFTER = 3  # updates that the run in the last layout adds
TOLERANCE = 2e-3
CHECKER = REPOSITORY / "tests/crash/checker.py"


class Plug:
    """One run of the demo. `problems` says what was not as it should be."""

    def __init__(self, daemon: Daemon, kills: int, seed: int) -> None:
        self.daemon, self.kills = daemon, kills
        self.problems: list[str] = []
        self.rows: list[list[str]] = []
        self._random = random.Random(seed)
        self._directory = daemon.root / "plug"
        self._ledger = daemon.home / "ledger"
        self._ledger.mkdir()
        self._runs = 0
        self._losses: dict[int, float] = {}  # of the run that was never killed
        self._reached = 0  # the last update of the run before
        self.repeated = 0
        # Each kill is in the save after a resume, or the one after that; a killed daemon costs no update.
        self.steps = SAVE_EVERY * (2 * kills + 2) + AFTER

    def run(self) -> None:
        self._losses = self._never_killed()
        say(f"{self.steps} updates without a mishap: the loss went from {self._losses[1]:.3f} to "
            f"{self._losses[self.steps]:.3f}. Now the same, with {self.kills} kills in the middle of saves.")
        killed = 0
        with Progress("kills", self.kills) as progress:
            while killed < self.kills:
                progress.show(killed, f"after {self._reached} updates")
                killed += self._until_a_trainer_dies(with_daemon=killed % 2 == 1 and killed + 1 < self.kills)
        table(["run", "resumed at", "updates", "killed"], self.rows)
        self._in_another_layout()
        self._check()

    def _task(self, layout: str, until: int, ledger: Path | None = None) -> Task:
        self._runs += 1
        return Task(str(self._directory), self.daemon.address, str(self.daemon.home / f"store{self._runs}"), layout,
                    until, SAVE_EVERY if ledger else until + 1, keep_last=None,
                    ledger=None if ledger is None else str(ledger), run=self._runs)

    def _never_killed(self) -> dict[int, float]:
        task = Task(str(self.daemon.root / "reference"), self.daemon.address, str(self.daemon.home / "store-reference"),
                    "fsdp2tp", self.steps, self.steps)
        with Ranks(task, self.daemon.home / "ranks.log") as ranks, Progress("never killed", self.steps) as progress:
            well = ranks.run(lambda rank, event: event["event"] == "step" and progress.show(event["step"], ""))
            if not well:
                raise RuntimeError(f"the run that nobody kills ended with {ranks.statuses}:\n{ranks.tail()}")
            return {event["step"]: event["loss"] for event in ranks.named("step")}

    def _resumed(self, ranks: Ranks) -> int:
        """Where they did; notes if that is not the newest step that the runs before have committed.

        A save that all ranks had sealed is committed though they die, so only afterwards is it known.
        """
        resumed = {ranks.named("resumed", rank)[0]["step"] for rank in range(ranks.task.world_size)}
        committed = keepstep.reader.list_checkpoints(self._directory)
        newest = max((info.step for info in committed if info.epoch < self._runs), default=0)
        if resumed != {newest}:
            self.problems.append(f"run {self._runs} resumed at {resumed}, the newest committed step was {newest}")
        self.repeated += self._reached - newest
        return newest

    def _until_a_trainer_dies(self, with_daemon: bool) -> int:
        """One run of four processes; kills the daemon in its first save if told to, and a trainer in the next. How many
        were killed."""
        victim = self._random.randrange(4)
        plan = [*(["daemon"] if with_daemon else []), "trainer"]
        moments = [self._random.random() * 0.03 for _ in plan]
        saves: set[int] = set()

        def kill(rank: int, event: Event) -> None:
            if event["event"] != "saving" or event["step"] in saves or len(saves) == len(plan):
                return
            saves.add(event["step"])
            time.sleep(moments[len(saves) - 1])  # somewhere in the save
            if plan[len(saves) - 1] == "daemon":
                self.daemon.kill()
                self.daemon.start()
            else:
                ranks.kill(victim)

        with Ranks(self._task("fsdp2tp", self.steps, self._ledger), self.daemon.home / "ranks.log") as ranks:
            if ranks.run(kill):
                self.problems.append(f"run {self._runs} was to be killed and was not")
            resumed = self._resumed(ranks)
            losses = {event["step"]: event["loss"] for event in ranks.named("step")}
        self._compare(losses, 0.0)
        self._reached = max(losses)
        self.rows.append([str(self._runs), str(resumed) if resumed else "–", f"{min(losses)}–{max(losses)}",
                          " and then ".join([*(["the daemon"] if with_daemon else []), f"trainer {victim}"])])
        return len(saves)

    def _in_another_layout(self) -> None:
        with Ranks(self._task("fsdp2of3", self._reached + AFTER), self.daemon.home / "ranks.log") as ranks:
            if not ranks.run():
                self.problems.append(f"three processes ended with {ranks.statuses}: {ranks.tail()}")
                return
            resumed = self._resumed(ranks)
            losses = {event["step"]: event["loss"] for event in ranks.named("step")}
        self._compare(losses, TOLERANCE)
        worst = max(abs(loss - self._losses[step]) for step, loss in losses.items())
        say(f"Three processes resumed at step {resumed} in another layout: their losses are those of the run that was "
            f"never killed within {worst:.1e}. In all, {self.repeated} updates were run twice.")

    def _compare(self, losses: dict[int, float], tolerance: float) -> None:
        off = [step for step, loss in losses.items() if abs(loss - self._losses[step]) > tolerance]
        if off:
            self.problems.append(f"run {self._runs}: other losses than the run that was never killed at updates {off}")

    def _check(self) -> None:
        ran = subprocess.run([sys.executable, str(CHECKER), str(self._directory), str(self._ledger)],
                             capture_output=True, text=True, timeout=300, check=False)
        if not ran.stdout:
            self.problems.append(f"the checker: {ran.stderr[-500:]}")
            return
        verdict = json.loads(ran.stdout)
        self.problems += verdict["findings"] + verdict["space"]
        say(f"The independent checker compared {verdict['checkpoints']} checkpoints and {verdict['loads']} loads with "
            f"what the trainers had noted: {len(verdict['findings'])} findings.")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="pull-the-plug", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how many (default: {KILLS})")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed and when")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ks-plug-") as home, Daemon(Path(home)) as daemon:
        plug = Plug(daemon, options.kills, options.seed)
        plug.run()
        for problem in plug.problems:
            print(f"pull-the-plug: {problem}", file=sys.stderr)
    verdict = f"{len(plug.problems)} problems" if plug.problems else "nothing lost, nothing torn"
    print(f"\n{options.kills} kills: {verdict}, in {time.monotonic() - begin:.0f} s")
    return 1 if plug.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
