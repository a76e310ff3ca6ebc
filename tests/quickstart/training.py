"""The quickstart's first part: a GPT trains, is killed in a save, and goes on in two other layouts.

 1. Four processes, FSDP2 × TP, save every SAVE_EVERY updates; one is killed by SIGKILL as soon as a save has begun.
 2. Two processes, FSDP2, resume at the newest committed step and go a little beyond the next save.
 3. Three processes resume where those left off, as if they too had been lost.

The updates that a run repeats must give the losses that the run before gave, within what another order of adding floats
makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.harness.daemon import Daemon
from tests.quickstart.story import say, table
from tests.training import text
from tests.training.progress import Progress
from tests.training.rank import Task
from tests.training.ranks import Event, Ranks
from tests.training.trainee import LAYOUTS

NAME = "gpt-licences"
SAVE_EVERY = 10
KILLED_AT = 40
VICTIM = 3
RUNS = (("fsdp2tp", KILLED_AT + 5), ("fsdp2", 65), ("fsdp2of3", 80))  # layout, and the update it ends after
TOLERANCE = 2e-3  # of a loss around 3


class TrainingFailed(RuntimeError):
    """A run did not do what it should; the message says what, with the end of the ranks' log."""


@dataclass(frozen=True)
class Run:
    title: str
    resumed: int  # 0: from nothing
    load_seconds: float
    losses: dict[int, float]  # by update
    repeated: dict[int, tuple[float, float]]  # update → loss before, loss now
    blocked_ms: float  # the longest save call of any rank

    @property
    def difference(self) -> float:
        return max((abs(now - before) for before, now in self.repeated.values()), default=0.0)


def train(daemon: Daemon) -> list[Run]:
    """The three runs. TrainingFailed: one did not end as it should, or its losses are others."""
    say(f"""A GPT reads the licences of this machine, {len(text.corpus()) / 1000:.0f} kB, in four processes: FSDP2 ×
        TP. It saves every {SAVE_EVERY} updates, and process {VICTIM} is killed by SIGKILL in the middle of the save of
        {KILLED_AT}. Two processes resume in another layout, and then three.""")
    runs: list[Run] = []
    known: dict[int, float] = {}
    for layout, until in RUNS:
        runs.append(_run(daemon, layout, until, known))
        known.update(runs[-1].losses)
    table(
        ["run", "resumed at", "updates", "load", "longest save call", "loss before", "again", "last loss"],
        [_row(run) for run in runs],
    )
    worst = max(run.difference for run in runs)
    repeated = sum(len(run.repeated) for run in runs)
    say(f"""{repeated} updates were run again after the kill and the stop, in another layout each: their losses differ
        from those of the first time by {worst:.1e} at most.""")
    print(flush=True)
    if worst > TOLERANCE:
        raise TrainingFailed(f"losses differ by {worst:.1e}, more than another order of additions explains")
    return runs


def _run(daemon: Daemon, layout: str, until: int, known: dict[int, float]) -> Run:
    first = not known
    task = Task(
        directory=str(daemon.root / NAME), address=daemon.address, store=str(daemon.home / f"store-{layout}"),
        layout=layout, until=until, every=SAVE_EVERY, die_at=KILLED_AT if first else None, victim=VICTIM,
    )  # fmt: skip
    log: Path = daemon.home / "ranks.log"
    title, processes = LAYOUTS[layout]
    with Ranks(task, log) as ranks, Progress(title, until) as progress:
        def show(rank: int, event: Event) -> None:
            if rank == 0 and event["event"] == "step":
                progress.show(event["step"], f"loss {event['loss']:.3f}")

        well = ranks.run(show)
        killed = first and any(event["step"] == KILLED_AT for event in ranks.named("saving", VICTIM))
        if well == first or killed != first:
            raise TrainingFailed(f"{title}: ended with {ranks.statuses}:\n{ranks.tail()}")
        resumed = {ranks.named("resumed", rank)[0]["step"] for rank in range(processes)}
        losses = {event["step"]: event["loss"] for event in ranks.named("step")}
        calls = [event["call_seconds"] for rank in range(processes) for event in ranks.named("over", rank)]
        loads = [ranks.named("resumed", rank)[0]["seconds"] for rank in range(processes)]
    if len(resumed) != 1:
        raise TrainingFailed(f"{title}: ranks resumed at {sorted(resumed)}")
    (step,) = resumed
    if (step == 0) != first or (known and step not in (max(known) // SAVE_EVERY * SAVE_EVERY, KILLED_AT - SAVE_EVERY)):
        raise TrainingFailed(f"{title}: resumed at {step}, which is not the last save")
    repeated = {update: (known[update], loss) for update, loss in losses.items() if update in known}
    return Run(title, step, max(loads), losses, repeated, 1000 * max(calls, default=0.0))


def _row(run: Run) -> list[str]:
    before, again = next(iter(run.repeated.values()), (None, None))
    return [
        run.title, str(run.resumed) if run.resumed else "–", f"{min(run.losses)}–{max(run.losses)}",
        f"{run.load_seconds * 1000:.1f} ms" if run.resumed else "–", f"{run.blocked_ms:.1f} ms",
        "–" if before is None else f"{before:.4f}", "–" if again is None else f"{again:.4f}",
        f"{run.losses[max(run.losses)]:.4f}",
    ]  # fmt: skip
