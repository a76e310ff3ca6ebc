"""The main job, on real input: train a GPT and resume it elsewhere; save a model, kill, restore it everywhere, compare.

    deploy/quickstart.sh [--keep]        or, built already: .venv/bin/python -m tests.quickstart.main_job [--keep]

 1. Starts keepstepd with an empty root, and trains (training.py): PyTorch, three layouts, one SIGKILL.
 2. Four trainers save steps 0, 1 and 2 while training changes the tensors; one is killed in the middle of step 2.
 3. New processes restore the last committed step: whole, split along the other dimension, uneven, as flat ranges.
 4. The step that holds the published weights is exported and compared with the published file, tensor by tensor.

Every tensor is compared by digest with what the rule of training says it was at that step. Exit status: 0 when all are
identical, 1 when one differs or something did not work.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from tests.harness.daemon import KEEPSTEP, KEEPSTEPD, REPOSITORY, Daemon, DaemonFailed

sys.path.insert(0, str(REPOSITORY / "client/python"))

import keepstep

from tests.quickstart import check, model, story, training
from tests.quickstart.layouts import RESTORES, TRAINERS, TRAINING
from tests.quickstart.story import RestoreRow, SaveRow, say
from tests.quickstart.world import Ended, run_world

LAST_STEP = 2
VICTIM = TRAINERS - 1
TIMEOUT_SECONDS = 240.0
PREFIX = "keepstep-quickstart-"


class Failed(RuntimeError):
    """The job cannot go on; the message says at what."""


def new_home() -> Path:
    """An empty directory with a short path (sockets), found again through .keepstep/quickstart.

    The one of the run before is removed, unless its daemon still listens.
    """
    link = REPOSITORY / ".keepstep/quickstart"
    link.parent.mkdir(exist_ok=True)
    before = link.resolve()
    if before.name.startswith(PREFIX) and before.is_dir() and not _listens(before / "keepstep.sock"):
        shutil.rmtree(before)
    link.unlink(missing_ok=True)
    home = Path(tempfile.mkdtemp(prefix=PREFIX))
    link.symlink_to(home)
    return home


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


class MainJob:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.directory = daemon.root / model.NAME
        self.exported = daemon.home / "exported"
        self.differences = 0

    def run(self) -> bool:
        """Whether everything was identical."""
        training.train(self.daemon)
        trainers = self.train()
        saves = self.check_trainers(trainers)
        story.save_table(saves)
        restores = self.restore()
        story.restore_table(restores)
        self.export()
        return self.differences == 0

    def train(self) -> list[Ended]:
        size = model.published_file().stat().st_size
        say(f"""Four trainers hold {model.NAME} ({size / 1e6:.0f} MB as published): attention and MLP split by columns
            and rows, query, key and value in one allocation, embeddings by vocabulary, the rest replicated, a fused
            weight of two boxes each, and Adam's two moments as flat ranges. They save steps 0, 1 and 2 while training
            goes on; trainer {VICTIM} is killed by SIGKILL in the middle of the third save.""")
        trainers = run_world(
            "tests.quickstart.trainer",
            [[str(self.directory), self.daemon.address, str(rank), str(VICTIM)] for rank in range(TRAINERS)],
            TIMEOUT_SECONDS,
        )
        for rank, ended in enumerate(trainers):
            expected = -signal.SIGKILL if rank == VICTIM else 0
            if ended.status != expected:
                raise Failed(f"trainer {rank} ended with {ended.status}, not {expected}:\n{ended.errors}")
        told = next(ended for rank, ended in enumerate(trainers) if rank != VICTIM).named("third")[0]["message"]
        say(f'Trainer {VICTIM} is dead. The others were told about step 2: "{told.rstrip(".")}".')
        print(flush=True)
        return trainers

    def check_trainers(self, trainers: list[Ended]) -> list[SaveRow]:
        """What the trainers held at each save is what the rule of training says, and the reader finds it stored."""
        committed = {info.step: info for info in keepstep.reader.list_checkpoints(self.directory)}
        for step in range(LAST_STEP):
            if step not in committed:
                raise Failed(f"step {step} was reported committed and is not in {self.directory}")
        rows = []
        for state in model.states(LAST_STEP):
            wrong = []
            for rank, ended in enumerate(trainers):
                claimed = next(event for event in ended.named("state") if event["step"] == state.step)["digests"]
                wrong += check.differing_parts(state, TRAINING, rank, claimed)
            if state.step in committed:
                wrong += check.differing_in_reader(state, self.directory)
            self.note(f"step {state.step}", wrong)
            stats = [one["stats"] for ended in trainers for one in ended.named("committed")]
            stats = [one for one in stats if one["step"] == state.step]
            if stats:
                rows.append(SaveRow.of(state.step, stats, committed[state.step].tensor_bytes, not wrong))
        return rows

    def restore(self) -> list[RestoreRow]:
        results: dict[str, tuple[list[Ended], float]] = {}
        for name, layout in RESTORES.items():
            begin = time.monotonic()
            ranks = run_world(
                "tests.quickstart.restorer",
                [[str(self.directory), self.daemon.address, name, str(rank)] for rank in range(layout.world_size)],
                TIMEOUT_SECONDS,
                hold="restored",
            )
            results[name] = (ranks, time.monotonic() - begin)
            for rank, ended in enumerate(ranks):
                if ended.status != 0 or not ended.named("restored"):
                    raise Failed(f"{layout.title}: rank {rank} ended with {ended.status}:\n{ended.errors}")
        steps = {ended.named("restored")[0]["step"] for ranks, _ in results.values() for ended in ranks}
        if len(steps) != 1 or not steps <= {LAST_STEP - 1, LAST_STEP}:
            raise Failed(f"restored steps {sorted(steps)}; all should be the last committed one")
        (step,) = steps
        say(f"""New processes restored the last committed step, {step}, into other layouts. Each of {self.count(step)}
            tensors is compared with what it was when step {step} was saved. What the daemon's pool still holds is not
            read from disk again:""")
        state = next(state for state in model.states(step) if state.step == step)
        return [self._restored(state, name, ranks) for name, (ranks, _) in results.items()]

    def _restored(self, state: model.State, name: str, ranks: list[Ended]) -> RestoreRow:
        layout = RESTORES[name]
        told = [ended.named("restored")[0] for ended in ranks]
        wrong = [
            tensor
            for rank, one in enumerate(told)
            for tensor in check.differing_parts(state, layout, rank, one["digests"])
        ]
        wrong += [f"extra state of rank {rank}" for rank, one in enumerate(told) if one["updates"] != state.step]
        self.note(layout.title, wrong)
        return RestoreRow(
            layout.title, state.step, max(one["seconds"] for one in told), sum(one["delivered_bytes"] for one in told),
            sum(one["read_bytes"] for one in told), not wrong,
        )  # fmt: skip

    def count(self, step: int) -> int:
        return len(keepstep.open(self.directory, step).names())

    def export(self) -> None:
        ran = self.daemon.command("export", f"{model.NAME}/0", str(self.exported), timeout_seconds=TIMEOUT_SECONDS)
        if ran.returncode != 0:
            raise Failed(f"keepstep export ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
        wrong = check.differing_in_export(self.exported)
        self.note("the export", wrong)
        count = len(model.published())
        say(f"""`keepstep export {model.NAME}/0` wrote {check.index_of(self.exported)}. Loaded with safetensors,
            {count - len(wrong)} of the {count} published tensors are identical.""")
        print(flush=True)

    def note(self, what: str, wrong: list[str]) -> None:
        if wrong:
            self.differences += len(wrong)
            story.complain(f"{what}: {len(wrong)} differences: {', '.join(wrong[:5])}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="quickstart", description=__doc__.split("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave the daemon running at the end")
    options = parser.parse_args(arguments)
    for binary in (KEEPSTEPD, KEEPSTEP):
        if not binary.exists():
            story.complain(f"{binary} is not built; run deploy/quickstart.sh, which builds it")
            return 1
    begin = time.monotonic()
    daemon = Daemon(new_home())
    job = MainJob(daemon)
    try:
        daemon.start()
        say(f"keepstepd is ready, with an empty root: {daemon.root}")
        identical = job.run()
    except (Failed, training.TrainingFailed, DaemonFailed, TimeoutError, keepstep.KeepstepError) as error:
        story.complain(str(error))
        story.complain(f"the end of the daemon's log ({daemon.log}):\n{daemon.tail()}")
        identical = False
    except BaseException:
        daemon.kill()
        raise
    kept = options.keep and daemon.alive()
    if not kept and daemon.alive():
        daemon.stop()
    story.closing(job.directory, job.exported, daemon, kept)
    verdict = "everything identical" if identical else f"NOT identical, or not finished: {job.differences} differences"
    print(f"\n{verdict}, in {time.monotonic() - begin:.0f} s")
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
