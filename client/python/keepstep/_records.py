"""Decodes the records of a checkpoint: the frame of storage/record.h and the messages of proto/storage.proto.

Only what a reader needs, without the protobuf package: a message becomes a dataclass, unknown fields are skipped. What
a reader indexes or allocates by is checked here once: whatever does not fit together is DataLoss.

    "KSREC\\0" · kind u16 · version u32 · payload length u64 · payload · XXH3-128 of all before it, big-endian
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keepstep import dtypes
from keepstep.errors import DataLoss, KeepstepError

try:
    import xxhash

    digest128: Callable[[bytes | memoryview], bytes] | None = xxhash.xxh3_128_digest
except ImportError:
    digest128 = None

PART, DECISION, CLAIM, EPOCH_STEP, MARKER = 1, 2, 3, 4, 5
VERSION = 1
COMMIT = 1
_MAGIC = b"KSREC\0"
_HEADER = struct.Struct("<6sHIQ")
_DIGEST_BYTES = 16
_BLOCK_BYTES = 1 << 20
_MOST_DIMENSIONS = 64


def unframe(kind: int, data: bytes, name: str) -> bytes:
    """The payload. DataLoss: short, long, of another kind or damaged; KeepstepError: of a later format."""
    if len(data) < _HEADER.size + _DIGEST_BYTES:
        raise DataLoss(f"{name} is cut short: {len(data)} bytes", blob=name)
    magic, found, version, length = _HEADER.unpack_from(data)
    if magic != _MAGIC or found != kind or len(data) != _HEADER.size + length + _DIGEST_BYTES:
        raise DataLoss(f"{name} is not the record that its name says", blob=name)
    if digest128 is not None and digest128(memoryview(data)[:-_DIGEST_BYTES]) != data[-_DIGEST_BYTES:]:
        raise DataLoss(f"{name} is damaged: its digest differs", blob=name)
    if version > VERSION:
        raise KeepstepError(
            f"{name} has format version {version}, this reader knows {VERSION}; install a newer keepstep.",
            code="FAILED_PRECONDITION",
            reason="UNSUPPORTED_VERSION",
        )
    return data[_HEADER.size : -_DIGEST_BYTES]


class Message:
    """The fields of one encoded message by number, every occurrence in order."""

    def __init__(self, data: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        for number, value in _fields(data):
            self._fields.setdefault(number, []).append(value)

    def integer(self, number: int) -> int:
        value = self._fields.get(number, [0])[-1]
        return _signed(value) if isinstance(value, int) else 0

    def raw(self, number: int) -> bytes:
        value = self._fields.get(number, [b""])[-1]
        return value if isinstance(value, bytes) else b""

    def string(self, number: int) -> str:
        return self.raw(number).decode("utf-8", "replace")

    def strings(self, number: int) -> tuple[str, ...]:
        values = self._fields.get(number, [])
        return tuple(value.decode("utf-8", "replace") for value in values if isinstance(value, bytes))

    def message(self, number: int) -> Message:
        return Message(self.raw(number))

    def messages(self, number: int) -> list[Message]:
        return [Message(value) for value in self._fields.get(number, []) if isinstance(value, bytes)]

    def double(self, number: int) -> float:
        value = self._fields.get(number, [bytes(8)])[-1]
        if not isinstance(value, bytes) or len(value) != 8:
            raise DataLoss("a record's message is malformed")
        return float(struct.unpack("<d", value)[0])

    def integers(self, number: int) -> tuple[int, ...]:
        """A repeated integer, packed or not."""
        result: list[int] = []
        for value in self._fields.get(number, []):
            if isinstance(value, int):
                result.append(_signed(value))
                continue
            at = 0
            while at < len(value):
                item, at = _varint(value, at)
                result.append(_signed(item))
        return tuple(result)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise DataLoss("a record's message is malformed")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & (1 << 64) - 1, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise DataLoss("a record's message is malformed")
        if at + size > len(data):
            raise DataLoss("a record's message is malformed")
        yield number, data[at : at + size]
        at += size


@dataclass(frozen=True)
class PartRef:
    name: str
    size_bytes: int
    digest: bytes


@dataclass(frozen=True)
class Decision:
    commit: bool
    step: int
    attempt: str
    epoch: int
    parts: tuple[PartRef, ...]
    world_size: int
    time_unix_ms: int
    metrics: dict[str, float]
    tags: tuple[str, ...]
    tensor_bytes: int
    tensor_count: int


@dataclass(frozen=True)
class Extent:
    """One box of a tensor, row-major in `blob` from `offset_bytes`."""

    tensor: int
    origin: tuple[int, ...]
    shape: tuple[int, ...]
    blob: str
    offset_bytes: int
    size_bytes: int
    block_digests: bytes


@dataclass(frozen=True)
class TensorRecord:
    names: tuple[str, ...]  # the fqn, then its aliases
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ExtraRecord:
    name: str
    rank: int
    splittable: bool
    items: tuple[Extent, ...]


@dataclass(frozen=True)
class Part:
    attempt: str
    tensors: tuple[TensorRecord, ...]
    extents: tuple[Extent, ...]
    extras: tuple[ExtraRecord, ...]


def decode_decision(data: bytes, name: str) -> Decision:
    body = Message(unframe(DECISION, data, name))
    return Decision(
        commit=body.integer(2) == COMMIT,
        step=body.integer(3),
        attempt=body.string(4),
        epoch=body.integer(5),
        parts=tuple(PartRef(ref.string(1), ref.integer(2), ref.raw(3)) for ref in body.messages(6)),
        world_size=body.integer(8),
        time_unix_ms=body.integer(10),
        metrics={entry.string(1): entry.double(2) for entry in body.messages(11)},
        tags=body.strings(12),
        tensor_bytes=body.integer(13),
        tensor_count=body.integer(14),
    )


def decode_epoch_step(data: bytes, name: str) -> tuple[int, str] | None:
    """Step and attempt; None: the record says that there was nothing."""
    body = Message(unframe(EPOCH_STEP, data, name))
    return None if body.integer(2) else (body.integer(3), body.string(4))


def decode_part(data: bytes, name: str) -> Part:
    body = Message(unframe(PART, data, name))
    blobs = [blob.string(1) for blob in body.messages(5)]
    described = [(tensor.message(1), tensor.strings(2)) for tensor in body.messages(6)]
    tensors = tuple(_tensor(meta, aliases, name) for meta, aliases in described)
    return Part(
        attempt=body.string(2),
        tensors=tensors,
        extents=tuple(_extent(item, blobs, tensors, name) for item in body.messages(7)),
        extras=tuple(
            ExtraRecord(
                extra.string(1),
                extra.integer(2),
                extra.integer(4) != 0,
                tuple(_item(item, blobs, name) for item in extra.messages(5)),
            )
            for extra in body.messages(8)
        ),
    )


def is_file_name(name: str) -> bool:
    """One component of a path, as storage/blob_path.h has it."""
    if name in ("", ".", "..") or "/" in name or len(name.encode("utf-8", "replace")) > 255:
        return False
    return not any(ord(c) < 0x20 or c == "\x7f" for c in name)


def _tensor(meta: Message, aliases: tuple[str, ...], name: str) -> TensorRecord:
    record = TensorRecord((meta.string(1), *aliases), meta.string(2), meta.integers(3))
    if not dtypes.is_known(record.dtype) or len(record.shape) > _MOST_DIMENSIONS or min(record.shape, default=0) < 0:
        raise DataLoss(f"{name} describes {record.names[0]} with a dtype or shape that cannot be", blob=name)
    return record


def _extent(body: Message, blobs: list[str], tensors: tuple[TensorRecord, ...], name: str) -> Extent:
    box = body.message(2)
    extent = Extent(
        body.integer(1), box.integers(1), box.integers(2), _blob(body.integer(3), blobs, name),
        body.integer(4), body.integer(5), body.raw(7),
    )  # fmt: skip
    if not 0 <= extent.tensor < len(tensors) or not _lies_in(extent, tensors[extent.tensor]):
        raise DataLoss(f"{name} lists a box that does not fit its tensor or its bytes", blob=name)
    return extent


def _lies_in(extent: Extent, tensor: TensorRecord) -> bool:
    """Whether the box lies in the tensor's shape, and the extent is as long as the box and has all its digests."""
    if not len(extent.origin) == len(extent.shape) == len(tensor.shape):
        return False
    if any(o < 0 or n < 0 or o + n > s for o, n, s in zip(extent.origin, extent.shape, tensor.shape, strict=True)):
        return False
    return extent.size_bytes == math.prod(extent.shape) * dtypes.item_bytes(tensor.dtype) and _has_digests(extent)


def _has_digests(extent: Extent) -> bool:
    blocks = -(-extent.size_bytes // _BLOCK_BYTES)
    return extent.offset_bytes >= 0 <= extent.size_bytes and len(extent.block_digests) == blocks * _DIGEST_BYTES


def _item(body: Message, blobs: list[str], name: str) -> Extent:
    blob = _blob(body.integer(1), blobs, name)
    item = Extent(-1, (0,), (body.integer(3),), blob, body.integer(2), body.integer(3), body.raw(5))
    if not _has_digests(item):
        raise DataLoss(f"{name} lists an extra that does not fit its bytes", blob=name)
    return item


def _blob(index: int, blobs: list[str], name: str) -> str:
    if not 0 <= index < len(blobs) or not is_file_name(blobs[index]):
        raise DataLoss(f"{name} names a blob that cannot be", blob=name)
    return blobs[index]
