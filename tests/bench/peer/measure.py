"""One workload: every peer in turn, Keepstep beside it at the same moment, repetition by repetition."""

from __future__ import annotations

import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import limits
from tests.bench.peer.api import KEEPSTEP, Entry
from tests.bench.peer.ranks import PeerFailed, PeerRanks, peak_pss, read_bytes, warm_programs
from tests.bench.peer.workload import Workload
from tests.harness.daemon import Daemon

Runs = dict[str, list[float]]  # by figure


@dataclass
class Measured:
    shape: Workload
    tensors: int = 0
    peers: dict[str, Runs] = field(default_factory=dict)
    beside: dict[str, Runs] = field(default_factory=dict)  # Keepstep's, measured in turn with that peer
    reference: list[float] = field(default_factory=list)  # interference of one thread of memcpy and XXH3
    failed: dict[str, str] = field(default_factory=dict)


class Side:
    """One of the two that are measured in turn."""

    def __init__(self, ranks: PeerRanks, directory: Path, daemon: Daemon | None, count: int) -> None:
        self.ranks, self.directory, self.daemon, self.count = ranks, directory, daemon, count
        self.runs: Runs = defaultdict(list)
        self.step = 0

    def place(self) -> Path:
        self.step += 1
        return self.directory / str(self.step)

    def drop(self) -> None:
        for entry in self.directory.iterdir() if self.directory.exists() else ():
            if entry.name.isdigit():
                shutil.rmtree(entry)

    def saves(self, keep: bool) -> None:
        """A save that nothing runs beside, one that training goes on beside, and another one for its memory.

        To look at that takes half a processor, so it has no part in what is timed. The first of all is told apart.
        """
        base = statistics.median(
            value for answer in self.ranks.tell("steps", self.count) for value in answer["steps"]
        )
        durable = self.ranks.most("durable", "save", self.place(), 0)
        self.ranks.tell("steps", 1)  # nobody saves twice without one
        answers = self.ranks.tell("save", self.place(), self.count)
        with peak_pss(self.ranks, [self.daemon.pid] if self.daemon else []) as peak:
            self.ranks.tell("save", self.place(), self.count)
        self.drop()
        if not keep:
            self.runs["first durable"].append(durable)
            return
        self.runs["durable"].append(durable)
        self.runs["call"].append(max(answer["call"] for answer in answers))
        self.runs["call + gate"].append(max(answer["call"] + answer["gate"] for answer in answers))
        self.runs["interference"].append(
            max(sum(answer["steps"]) - answer["gate"] - self.count * base for answer in answers)
        )
        self.runs["peak PSS"].append(float(peak[0]))

    def loads(self, repeats: int, state_bytes: int) -> Path:
        """Cold and warm loads of one more save, which stays."""
        saved = self.place()
        self.ranks.tell("save", saved, 0)
        digest = self.ranks.total("digest", "digest")
        for _ in range(repeats):
            if self.daemon is not None:  # its memory holds the newest checkpoint
                self.daemon.stop()
                self.daemon.start()
                self.ranks.tell("settle")
            self._cool()
            before = self._read()
            for figure in ("cold load", "warm load"):
                self.ranks.tell("zero")
                self.runs[figure].append(self.ranks.most("seconds", "load", saved))
                if figure == "cold load":
                    self.runs["read ÷ unique"].append((self._read() - before) / state_bytes)
                if (got := self.ranks.total("digest", "digest")) != digest:
                    raise PeerFailed(f"{figure}: the state's digest is {got}, saved was {digest}")
        return saved

    def _cool(self) -> None:
        limits.drop_caches()
        warm_programs([*self.ranks.pids(), *([self.daemon.pid] if self.daemon else [])])

    def _read(self) -> int:
        daemon = 0 if self.daemon is None else read_bytes(self.daemon.pid)
        return daemon + self.ranks.total("read_bytes", "io")


def resharded(entry: Entry, shape: Workload, saved: Path, daemon: Daemon | None, *, quick: bool, repeats: int,
              runs: Runs) -> None:
    """Cold loads on half the ranks."""
    address = daemon.address if daemon is not None else ""
    with PeerRanks(entry, shape, shape.world // 2, quick=quick, address=address) as ranks:
        for _ in range(repeats):
            if daemon is not None:
                daemon.stop()
                daemon.start()
                ranks.tell("settle")
            limits.drop_caches()
            warm_programs([*ranks.pids(), *([daemon.pid] if daemon is not None else [])])
            runs["load, half the ranks"].append(ranks.most("seconds", "load", saved))


def measure(home: Path, shape: Workload, peers: Iterable[Entry], *, quick: bool, repeats: int,
            say: Callable[[str], None]) -> Measured:
    out = Measured(shape)
    count = 2 if quick else 3
    saved = home / "none"
    with Daemon(home) as daemon:
        with PeerRanks(KEEPSTEP, shape, shape.world, quick=quick, address=daemon.address) as own_ranks:
            out.tensors = own_ranks.tensors
            own = Side(own_ranks, home / f"keepstep-{shape.name}", daemon, count)
            for entry in peers:
                say(f"{shape.name}: {entry.name}")
                own.runs = defaultdict(list)
                own.saves(keep=False)  # the first after a start, or after loads for which its daemon was restarted
                directory = home / f"{shape.name}-{entry.module}-{entry.class_name}"
                try:
                    out.peers[entry.name] = _peer(entry, shape, directory, own, out, quick, repeats)
                except PeerFailed as error:
                    out.failed[entry.name] = str(error)
                finally:
                    shutil.rmtree(directory, ignore_errors=True)
                own.drop()
                if entry.name in out.peers:
                    saved = own.loads(repeats, shape.state_bytes)
                    out.beside[entry.name] = own.runs
        if shape.world > 1 and out.beside:
            runs: Runs = defaultdict(list)
            say(f"{shape.name}: keepstep, half the ranks")
            resharded(KEEPSTEP, shape, saved, daemon, quick=quick, repeats=repeats, runs=runs)
            for beside in out.beside.values():
                beside.update(runs)
    return out


def _peer(entry: Entry, shape: Workload, directory: Path, own: Side, out: Measured, quick: bool,
          repeats: int) -> Runs:
    with PeerRanks(entry, shape, shape.world, quick=quick) as ranks:
        peer = Side(ranks, directory, None, own.count)
        peer.saves(keep=False)
        for _ in range(repeats):
            peer.saves(keep=True)
            own.saves(keep=True)
        base = statistics.median(value for answer in own.ranks.tell("steps", own.count) for value in answer["steps"])
        beside = own.ranks.tell("reference", own.count)
        out.reference.append(max(sum(answer["steps"]) - own.count * base for answer in beside))
        saved = peer.loads(repeats, shape.state_bytes)
    if entry.reshards and shape.world > 1:
        resharded(entry, shape, saved, None, quick=quick, repeats=repeats, runs=peer.runs)
    return peer.runs
