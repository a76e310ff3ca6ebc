"""Writes job directories as docs/formats.md describes them, sharing no code with the reader that is tested."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import xxhash

BLOCK = 1 << 20
NAMES = {"float32": "F32", "int64": "I64", "uint16": "BF16", "bool": "BOOL"}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value) if value else b""


def blob(number: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data if data else b""


def integers(number: int, values: tuple[int, ...]) -> bytes:
    return blob(number, b"".join(varint(value) for value in values))


def message(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def record(kind: int, payload: bytes, version: int = 1) -> bytes:
    framed = struct.pack("<6sHIQ", b"KSREC\0", kind, version, len(payload)) + payload
    return framed + xxhash.xxh3_128_digest(framed)


def blocks(data: bytes) -> bytes:
    return b"".join(xxhash.xxh3_128_digest(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK))


def attempt_name(epoch: int, counter: int) -> str:
    return f"e{epoch}-a{counter}-{epoch * 1000 + counter:016x}"


class Attempt:
    """Collects boxes, then writes blob, part and decision."""

    def __init__(self, job: Path, step: int, epoch: int = 1, counter: int = 1) -> None:
        self.step, self.epoch, self.name = step, epoch, attempt_name(epoch, counter)
        self.path = job / f"{step:012d}" / self.name
        self.path.mkdir(parents=True)
        self.blob = "model-00000-of-00001.safetensors"
        self.tensors: list[tuple[str, str, tuple[int, ...], tuple[str, ...]]] = []
        self.extents: list[tuple[int, tuple[int, ...], np.ndarray, str]] = []
        self.extras: list[tuple[str, int, bytes]] = []

    def tensor(self, name: str, dtype: str, shape: tuple[int, ...], aliases: tuple[str, ...] = ()) -> int:
        self.tensors.append((name, dtype, shape, aliases))
        return len(self.tensors) - 1

    def box(self, tensor: int, origin: tuple[int, ...], array: np.ndarray) -> None:
        count = sum(1 for at, *_ in self.extents if at == tensor)
        name = self.tensors[tensor][0]
        self.extents.append((tensor, origin, np.array(array, order="C"), f"{name}#{count}" if count else name))

    def whole(self, name: str, array: np.ndarray, aliases: tuple[str, ...] = ()) -> None:
        index = self.tensor(name, NAMES[array.dtype.name], array.shape, aliases)
        self.box(index, (0,) * array.ndim, array)

    def commit(self, kind: int = 1) -> None:
        part = self._write()
        (self.path / "part-0.pb").write_bytes(part)
        self.decide(part, kind)

    def decide(self, part: bytes, kind: int = 1) -> None:
        reference = blob(1, "part-0.pb") + integer(2, len(part)) + blob(3, xxhash.xxh3_128_digest(part))
        metric = blob(1, "loss") + varint(2 << 3 | 1) + struct.pack("<d", 0.5)
        payload = integer(1, 1) + integer(2, kind) + integer(3, self.step) + blob(4, self.name)
        payload += integer(5, self.epoch) + message(6, reference) + integer(8, 4) + integer(10, 1_700_000_000_000)
        payload += message(11, metric) + blob(12, "nightly") + integer(99, 7)  # 99: a field of a later release
        (self.path / "DECISION").write_bytes(record(2, payload))

    def _write(self) -> bytes:
        header, data, at = {}, b"", 0
        for tensor, _, array, entry in self.extents:
            raw = array.tobytes()
            header[entry] = {
                "dtype": self.tensors[tensor][1], "shape": list(array.shape), "data_offsets": [at, at + len(raw)]
            }  # fmt: skip
            data, at = data + raw, at + len(raw)
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 8) % 4096)
        prefix = struct.pack("<Q", len(text)) + text
        (self.path / self.blob).write_bytes(prefix + data)
        return record(1, self._part(prefix, data))

    def _part(self, prefix: bytes, data: bytes) -> bytes:
        payload = integer(1, 1) + blob(2, self.name) + integer(4, 1)
        payload += message(5, blob(1, self.blob) + integer(2, len(prefix) + len(data)) + integer(3, len(prefix)))
        extra_blob = "extra-00000-of-00001.safetensors"
        payload += message(5, blob(1, extra_blob))
        for name, dtype, shape, aliases in self.tensors:
            meta = blob(1, name) + blob(2, dtype) + integers(3, shape) + integer(4, 1)
            payload += message(6, message(1, meta) + b"".join(blob(2, alias) for alias in aliases))
        at = len(prefix)
        for tensor, origin, array, entry in self.extents:
            raw = array.tobytes()
            box = integers(1, origin) + integers(2, array.shape)
            extent = integer(1, tensor) + message(2, box) + integer(4, at) + integer(5, len(raw))
            extent += blob(6, xxhash.xxh3_128_digest(blocks(raw))) + blob(7, blocks(raw)) + blob(8, entry)
            payload += message(7, extent)
            at += len(raw)
        opaque = b""
        for name, rank, value in self.extras:
            item = integer(1, 1) + integer(2, len(opaque)) + integer(3, len(value)) + blob(5, blocks(value))
            payload += message(8, blob(1, name) + integer(2, rank) + message(5, item))
            opaque += value
        (self.path / extra_blob).write_bytes(opaque)
        return payload


def epoch_step(job: Path, epoch: int, name: str, step: int | None, attempt: str = "") -> None:
    folder = job / "epochs" / str(epoch)
    folder.mkdir(parents=True, exist_ok=True)
    payload = integer(1, 1) + (integer(2, 1) if step is None else integer(3, step) + blob(4, attempt))
    (folder / name).write_bytes(record(4, payload))
