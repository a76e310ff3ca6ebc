"""Judges a job's directory against what its trainers wrote down: a program of its own, standard library alone.

It shares no code with Keepstep: it parses records, part files and safetensors itself, puts tensors together from their
boxes, and compares SHA-256 of what the trainers noted, synced, before they called save.

    checker.py JOB LEDGER [VISIBLE]      one verdict as JSON on stdout; exit status 1 if there is a finding
    checker.py -                         the same for each line `JOB LEDGER [VISIBLE]` on stdin, until its end

LEDGER is a directory of *.jsonl, one JSON object a line:
    {"event": "give", "serial": n, "step": s, "rank": r, "world": w, "tensors": {name: bytes of the whole tensor},
     "pieces": [{"tensor": name, "ranges": [[begin, end], …], "sha256": hex}, …]}     before the call; ranges in bytes
    {"event": "told", "serial": n, "step": s, "rank": r, "state": "COMMITTED" or other, "reason": …}
    {"event": "loaded", "epoch": e, "step": s or null, "rank": r, "pieces": as above}
    {"event": "deleting", "step": s}     before a deletion was asked for; {"event": "deleted", …} when it succeeded
VISIBLE is a JSON file: {"who": [attempt, …], …}: the checkpoints that readers show.

The rules, for a daemon that has settled:
  1. An attempt whose DECISION is a COMMIT, without DELETING, is a checkpoint. It must be complete (every part and blob
     as long as its record says, every byte of every tensor there once) and exactly what all ranks gave to one call.
  2. A serial that some rank was told is COMMITTED is a checkpoint, unless a deletion of its step was asked for later.
     A step whose deletion succeeded, and that was not saved again, is none.
  3. A serial that some rank was told has FAILED (other than DURABILITY_UNCERTAIN or DECISION_DAMAGED, which say that
     they do not know) is no checkpoint. One of which nobody was told may be one: all ranks had sealed it.
  4. All readers show just these checkpoints, each once.
  5. Ranks that loaded in one epoch loaded one checkpoint, and exactly what some serial of that step gave.
  6. Nothing else takes space but a job's one reserve: an aborted attempt keeps its DECISION alone, a checkpoint what
     it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

ATTEMPT = re.compile(r"e(\d+)-a(\d+)-[0-9a-f]{16}")
STEP = re.compile(r"\d{12}")
COMMIT, ABORT = 1, 2
DOES_NOT_KNOW = {"DURABILITY_UNCERTAIN", "DECISION_DAMAGED"}
Event = dict[str, Any]


class Damaged(Exception):
    """Something on storage is not what it should be."""


# ---- protobuf and the record's frame


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value: Any
            value, at = varint(data, at)
        elif kind == 1:
            value, at = data[at : at + 8], at + 8
        elif kind == 2:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        elif kind == 5:
            value, at = data[at : at + 4], at + 4
        else:
            raise Damaged(f"wire type {kind}")
        yield key >> 3, value


def one(data: bytes, number: int, default: Any) -> Any:
    found = default
    for field, value in fields(data):
        if field == number:
            found = value
    return found


def record(path: str, kind: int) -> bytes:
    """The payload of a framed record. Its digest is Keepstep's own affair; this program has others."""
    with open(path, "rb") as file:
        data = file.read()
    size = int.from_bytes(data[12:20], "little")
    if data[:6] != b"KSREC\0" or int.from_bytes(data[6:8], "little") != kind or len(data) != 36 + size:
        raise Damaged(f"{path} is no whole record of kind {kind}")
    return data[20 : 20 + size]


# ---- safetensors

ITEM_BYTES = {"U8": 1, "I8": 1, "BOOL": 1, "F16": 2, "BF16": 2, "U16": 2, "I16": 2, "F32": 4, "U32": 4, "I32": 4,
              "F64": 8, "U64": 8, "I64": 8}


class Tensors:
    """Whole tensors, put together from the boxes of blobs; counts every byte."""

    def __init__(self) -> None:
        self.data: dict[str, bytearray] = {}
        self.filled: dict[str, bytearray] = {}

    def add_blob(self, path: str) -> None:
        with open(path, "rb") as file:
            data = file.read()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        told = header.pop("__metadata__")
        for entry, about in header.items():
            if entry.startswith("keepstep.extra/"):
                continue  # what each rank has of its own: no piece of a tensor
            begin, end = about["data_offsets"]
            box = json.loads(told[entry])
            self._add_box(entry.split("#")[0].replace("%23", "#").replace("%25", "%"), about["shape"], box,
                          data[8 + size + begin : 8 + size + end])

    def _add_box(self, name: str, shape: list[int], box: dict[str, Any], data: bytes) -> None:
        item, whole, origin = ITEM_BYTES[box["dtype"]], box["shape"], box["origin"]
        total = item
        for extent in whole:
            total *= extent
        into = self.data.setdefault(name, bytearray(total))
        filled = self.filled.setdefault(name, bytearray(total))
        strides = [item] * len(whole)
        for dim in range(len(whole) - 2, -1, -1):
            strides[dim] = strides[dim + 1] * whole[dim + 1]
        run = shape[-1] * item if shape else item
        rows = len(data) // run if run else 0
        for row in range(rows):
            rest, at = row, (origin[-1] * item if shape else 0)
            for dim in range(len(shape) - 2, -1, -1):
                rest, index = divmod(rest, shape[dim])
                at += (origin[dim] + index) * strides[dim]
            into[at : at + run] = data[row * run : (row + 1) * run]
            for byte in filled[at : at + run]:
                if byte:
                    raise Damaged(f"{name} is stored twice at byte {at}")
            filled[at : at + run] = b"\1" * run

    def check_whole(self) -> None:
        for name, filled in self.filled.items():
            if 0 in filled:
                raise Damaged(f"{name} lacks byte {filled.index(0)}")


def digest(data: bytes | bytearray, ranges: list[list[int]]) -> str:
    sha = hashlib.sha256()
    for begin, end in ranges:
        sha.update(data[begin:end])
    return sha.hexdigest()


# ---- one job


class Checkpoint:
    """A committed attempt: what it says, read back whole."""

    def __init__(self, path: str, step: int, attempt: str, decision: bytes) -> None:
        self.path, self.step, self.attempt = path, step, attempt
        if one(decision, 3, 0) != step or one(decision, 4, b"").decode() != attempt:
            raise Damaged(f"{path}/DECISION is of another attempt")
        self.files = {"DECISION"}
        self.tensors = Tensors()
        for number, part in fields(decision):
            if number == 6:
                self._add_part(one(part, 1, b"").decode(), one(part, 2, 0))
        self.tensors.check_whole()

    def _add_part(self, name: str, size: int) -> None:
        path = f"{self.path}/{name}"
        if os.path.getsize(path) != size:
            raise Damaged(f"{path} has {os.path.getsize(path)} bytes, not {size}")
        self.files.add(name)
        for number, blob in fields(record(path, 1)):
            if number != 5:
                continue
            blob_name, blob_size = one(blob, 1, b"").decode(), one(blob, 2, 0)
            if os.path.getsize(f"{self.path}/{blob_name}") != blob_size:
                raise Damaged(f"{self.path}/{blob_name} is not {blob_size} bytes long")
            self.files.add(blob_name)
            self.tensors.add_blob(f"{self.path}/{blob_name}")

    def is_what(self, gives: list[Event]) -> bool:
        """Whether it holds exactly what all ranks gave to one call."""
        if not gives or len(gives) != gives[0]["world"]:
            return False
        for give in gives:
            if {name: len(data) for name, data in self.tensors.data.items()} != give["tensors"]:
                return False
            for piece in give["pieces"]:
                if digest(self.tensors.data[piece["tensor"]], piece["ranges"]) != piece["sha256"]:
                    return False
        return True


class Judgement:
    def __init__(self, job: str, ledger: str, visible: str | None) -> None:
        self.findings: list[str] = []
        self.space: list[str] = []  # findings that more time may mend
        self.job = job
        self.events = read_ledger(ledger)
        self.checkpoints: list[Checkpoint] = []
        self.serial_of: dict[str, int] = {}
        self.bytes = 0
        self._read_job()
        self._match()
        self._judge_told()
        self._judge_loads()
        if visible is not None:
            self._judge_visible(visible)

    def _read_job(self) -> None:
        for step_name in sorted(os.listdir(self.job)):
            if STEP.fullmatch(step_name):
                self._read_step(int(step_name), f"{self.job}/{step_name}")
        for folder, _, files in os.walk(f"{self.job}/epochs"):
            self._expect_only(folder, files, {"CLAIM", "LATEST", "PARENT", "RESERVE"})

    def _read_step(self, step: int, path: str) -> None:
        """What goes while it is read has not settled, and is looked at again."""
        try:
            for attempt in sorted(os.listdir(path)):
                if ATTEMPT.fullmatch(attempt):
                    self._read_attempt(f"{path}/{attempt}", step, attempt)
        except FileNotFoundError as error:
            self.space.append(f"it is going: {error}")

    def _read_attempt(self, path: str, step: int, attempt: str) -> None:
        files = os.listdir(path)
        if not files:
            return  # of a deletion, or of a save that had just begun: nothing, and it takes nothing
        if "DELETING" in files:
            self.space.append(f"{path} is half deleted: {sorted(files)}")
            return
        if "DECISION" not in files:
            self.space.append(f"{path} is undecided, with {sorted(files)}")
            return
        kind = None
        try:
            decision = record(f"{path}/DECISION", 2)
            kind = one(decision, 2, 0)
            if kind == COMMIT:
                checkpoint = Checkpoint(path, step, attempt, decision)
                self.checkpoints.append(checkpoint)
                self.bytes += sum(os.path.getsize(f"{path}/{name}") for name in checkpoint.files)
                self._expect_only(path, files, checkpoint.files)
            elif kind == ABORT:
                self._expect_only(path, files, {"DECISION"})
            else:
                raise Damaged(f"{path}/DECISION decides {kind}")
        except FileNotFoundError:
            decided = os.path.exists(f"{path}/DECISION") and not os.path.exists(f"{path}/DELETING")
            if kind == COMMIT and decided:
                self.findings.append(f"damaged: {path}: it lacks a file")
            raise
        except (Damaged, OSError, IndexError, ValueError, KeyError) as error:
            self.findings.append(f"damaged: {path}: {error!r}")

    def _expect_only(self, path: str, files: list[str], expected: set[str]) -> None:
        for name in sorted(set(files) - expected):
            self.space.append(f"left over: {path}/{name}, {os.path.getsize(f'{path}/{name}')} bytes")

    def _gives(self) -> dict[int, list[Event]]:
        found: dict[int, list[Event]] = {}
        for event in self.events:
            if event["event"] == "give":
                found.setdefault(event["serial"], []).append(event)
        return found

    def _match(self) -> None:
        gives = self._gives()
        for checkpoint in self.checkpoints:
            serials = [serial for serial, given in gives.items()
                       if all(give["step"] == checkpoint.step for give in given) and checkpoint.is_what(given)]
            if len(serials) != 1:
                self.findings.append(f"not exact: {checkpoint.path} is what the calls {serials} gave")
            elif serials[0] in self.serial_of.values():
                self.findings.append(f"twice: {checkpoint.path} holds serial {serials[0]} again")
            else:
                self.serial_of[checkpoint.attempt] = serials[0]

    def _judge_told(self) -> None:
        held = set(self.serial_of.values())
        deleting: dict[int, int] = {}  # step → place of the newest deletion
        gone: dict[int, int] = {}
        last_give: dict[int, int] = {}
        told: dict[int, list[tuple[int, Event]]] = {}
        for place, event in enumerate(self.events):
            if event["event"] == "deleting":
                deleting[event["step"]] = place
            elif event["event"] == "deleted":
                gone[event["step"]] = place
            elif event["event"] == "give":
                last_give[event["step"]] = place
            elif event["event"] == "told":
                told.setdefault(event["serial"], []).append((place, event))
        for serial, answers in told.items():
            states = {(event["state"], event["reason"]) for _, event in answers}
            if any(state == "COMMITTED" for state, _ in states):
                if any(state != "COMMITTED" and reason not in DOES_NOT_KNOW for state, reason in states):
                    self.findings.append(f"told apart: serial {serial}: {sorted(states)}")
                first = min(place for place, event in answers if event["state"] == "COMMITTED")
                step = answers[0][1]["step"]
                if serial not in held and deleting.get(step, -1) < first:
                    self.findings.append(f"lost: serial {serial} of step {step} was reported committed")
            elif serial in held and any(reason not in DOES_NOT_KNOW for _, reason in states):
                self.findings.append(f"visible though failed: serial {serial}: {sorted(states)}")
        for step, place in gone.items():
            if last_give.get(step, -1) < place and any(each.step == step for each in self.checkpoints):
                self.findings.append(f"deleted, yet there: step {step}")

    def _judge_loads(self) -> None:
        gives = self._gives()
        by_epoch: dict[int, int | None] = {}
        for event in self.events:
            if event["event"] != "loaded":
                continue
            step = event["step"]
            first = by_epoch.setdefault(event["epoch"], step)
            if first != step:
                self.findings.append(f"ranks of epoch {event['epoch']} loaded steps {first} and {step}")
            if step is None:
                continue
            known = [serial for serial, given in gives.items()
                     for give in given if give["rank"] == event["rank"] and give["step"] == step
                     and give["pieces"] == event["pieces"]]
            if not known:
                self.findings.append(f"loaded: rank {event['rank']} got bytes of step {step} that nobody gave")

    def _judge_visible(self, path: str) -> None:
        with open(path, encoding="utf-8") as file:
            shown = json.load(file)
        expected = sorted(checkpoint.attempt for checkpoint in self.checkpoints)
        for who, attempts in shown.items():
            if sorted(attempts) != expected:
                self.findings.append(f"{who} shows {sorted(attempts)}, there are {expected}")

    def result(self) -> dict[str, Any]:
        told = [event for event in self.events if event["event"] == "told"]
        return {
            "findings": self.findings,
            "space": self.space,
            "checkpoints": len(self.checkpoints),
            "bytes": self.bytes,
            "told_committed": sum(event["state"] == "COMMITTED" for event in told),
            "told_failed": sum(event["state"] != "COMMITTED" for event in told),
            "loads": sum(event["event"] == "loaded" for event in self.events),
        }


def read_ledger(path: str) -> list[Event]:
    """The events of all files in the order of their times. A line torn by a kill says nothing."""
    events: list[Event] = []
    for name in sorted(os.listdir(path)):
        if name.endswith(".jsonl"):
            with open(f"{path}/{name}", encoding="utf-8") as file:
                for line in file:
                    if line.endswith("\n"):
                        events.append(json.loads(line))
    return sorted(events, key=lambda event: float(event["time"]))


def judge(words: list[str]) -> dict[str, Any]:
    return Judgement(words[0], words[1], words[2] if len(words) > 2 else None).result()


def main() -> int:
    if sys.argv[1:] == ["-"]:
        for line in sys.stdin:
            print(json.dumps(judge(line.split())), flush=True)
        return 0
    result = judge(sys.argv[1:])
    print(json.dumps(result, indent=1))
    return 1 if result["findings"] or result["space"] else 0


if __name__ == "__main__":
    sys.exit(main())
