"""Reads checkpoints with neither a daemon nor libkeepstep: `keepstep.open(directory).tensor(name)[0:8]`.

Nothing is read before it is sliced, and then only the stored boxes that the slice touches. With the `xxhash` package
installed every block is verified before its bytes are given out; without it, only sizes and coverage are checked.
An attempt that was never committed is not there.
"""

from __future__ import annotations

import difflib
import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keepstep import _directory, _records, dtypes, extras
from keepstep.errors import DataLoss, MissingTensors
from keepstep.shards import Array, Shape

_BLOCK_BYTES = 1 << 20
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class CheckpointInfo:
    """One committed checkpoint, as its decision describes it."""

    step: int
    epoch: int
    attempt: str
    time_unix_ms: int
    world_size: int
    tensor_bytes: int
    tensor_count: int
    metrics: Mapping[str, float]
    tags: tuple[str, ...]
    path: str


def list_checkpoints(directory: str | os.PathLike[str]) -> list[CheckpointInfo]:
    """Every committed checkpoint in the order of epochs, newest last; damaged decisions are left out."""
    return [_info(path, decision) for path, decision in _directory.committed(os.fspath(directory))]


def _info(path: str, told: _records.Decision) -> CheckpointInfo:
    return CheckpointInfo(
        told.step, told.epoch, told.attempt, told.time_unix_ms, told.world_size, told.tensor_bytes, told.tensor_count,
        told.metrics, told.tags, path,
    )  # fmt: skip


class Reader:
    """One committed checkpoint. Immutable; safe to share between threads.

    Raises:
        CheckpointNotFound: no such step, or nothing was ever committed.
        DataLoss: a decision or part is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str], step: int | None = None, *, verify: bool = True) -> None:
        self.directory = os.fspath(directory)
        path, decision = _directory.choose(self.directory, step)
        self.info = _info(path, decision)
        self._verify = verify and _records.digest128 is not None
        self._tensors: dict[str, StoredTensor] = {}
        self._extras: list[_records.ExtraRecord] = []
        for reference in decision.parts:
            self._add(_read_part(path, reference, self._verify))

    @property
    def step(self) -> int:
        """Completed updates that the checkpoint holds."""
        return self.info.step

    def steps(self) -> list[int]:
        """Committed steps of the job, in the order of epochs, newest last."""
        return [info.step for info in list_checkpoints(self.directory)]

    def names(self) -> list[str]:
        """Stored tensors, aliases too, sorted."""
        return sorted(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def tensor(self, name: str) -> StoredTensor:
        """A tensor to slice; reads nothing yet. MissingTensors names the closest stored name."""
        found = self._tensors.get(name)
        if found is None:
            close = difflib.get_close_matches(name, self._tensors, n=1, cutoff=0.0)
            hint = f" (stored: {close[0]}?)" if close else ""
            raise MissingTensors(f"{name} is not in step {self.step}{hint}; names() lists them.", names=(name,))
        return found

    def extra(self, name: str, rank: int | None = None) -> Any:
        """State that is not a tensor: of `rank`, else of the lowest rank that saved it. KeyError: not stored."""
        for record in sorted(self._extras, key=lambda record: record.rank):
            if record.name == name and rank in (None, record.rank):
                data = [_read_rows(self.info.path, item, 0, item.size_bytes, 1, self._verify) for item in record.items]
                return extras.Packed(tuple(map(bytes, data)), record.splittable).value()
        raise KeyError(f"extra {name!r} of rank {rank} is not in step {self.step}")

    def extra_names(self) -> list[tuple[str, int]]:
        """Name and rank of every stored extra."""
        return sorted((record.name, record.rank) for record in self._extras)

    def _add(self, part: _records.Part) -> None:
        if part.attempt != self.info.attempt:
            raise DataLoss(f"a part of {part.attempt} lies in {self.info.path}", blob=self.info.path)
        self._extras += part.extras
        by_tensor: dict[int, list[_records.Extent]] = {}
        for extent in part.extents:
            by_tensor.setdefault(extent.tensor, []).append(extent)
        for index, record in enumerate(part.tensors):
            for name in record.names:
                tensor = self._tensors.setdefault(name, StoredTensor(self.info.path, name, record, self._verify))
                if (tensor.shape, tensor.stored_dtype) != (record.shape, record.dtype):
                    raise DataLoss(f"parts disagree about {name}", tensor=name)
                tensor._extents += by_tensor.get(index, [])


class StoredTensor:
    """A tensor on storage, sliced like an array; every slice reads anew."""

    def __init__(self, path: str, name: str, record: _records.TensorRecord, verify: bool) -> None:
        self.name = name
        self.shape: Shape = record.shape
        self.stored_dtype = record.dtype
        self.dtype = dtypes.to_numpy(record.dtype)
        self._path = path
        self._verify = verify
        self._extents: list[_records.Extent] = []

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def boxes(self) -> list[tuple[Shape, Shape]]:
        """Origin and shape of each stored box, in elements, as they lie in the parts."""
        return [(extent.origin, extent.shape) for extent in self._extents]

    def __getitem__(self, index: Any) -> Array:
        """The array of a basic index: integers, slices, Ellipsis. DataLoss: bytes are damaged or missing."""
        begins, extents, after = _plan(index, self.shape)
        result: Array = self._box(begins, extents)[after]
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        whole = self[...]
        return whole if dtype is None else whole.astype(dtype)

    def numpy(self) -> Array:
        """The whole tensor."""
        return self._box((0,) * self.ndim, self.shape)

    def _box(self, begins: Shape, extents: Shape) -> Array:
        regions = [(extent, *_meet(begins, extents, extent)) for extent in self._extents]
        sizes = [math.prod(max(b - a, 0) for a, b in zip(low, high, strict=True)) for _, low, high in regions]
        # Before memory is taken for it: a shape is only what a record says.
        if sum(sizes) != math.prod(extents):
            missing = math.prod(extents) - sum(sizes)
            what = f"{missing} elements are not stored" if missing > 0 else "stored boxes overlap"
            raise DataLoss(f"{self.name}: {what}", tensor=self.name)
        result = np.empty(extents, self.dtype)
        for (extent, low, high), size in zip(regions, sizes, strict=True):
            if size == 0:
                continue
            result[tuple(slice(a - o, b - o) for a, b, o in zip(low, high, begins, strict=True))] = self._part(
                extent, low, high
            )
        return result

    def _part(self, extent: _records.Extent, low: Sequence[int], high: Sequence[int]) -> Array:
        """The region low … high of one stored box: its rows are read, the other dimensions cut from memory."""
        row_shape = extent.shape[1:]
        row_bytes = math.prod(row_shape) * self.dtype.itemsize
        first, last = (low[0] - extent.origin[0], high[0] - extent.origin[0]) if extent.shape else (0, 1)
        data = _read_rows(self._path, extent, first, last, row_bytes, self._verify, self.name)
        if not extent.shape:
            return np.frombuffer(data, self.dtype).reshape(())
        rows = np.frombuffer(data, self.dtype).reshape(last - first, *row_shape)
        return rows[(slice(None), *(slice(a - o, b - o) for a, b, o in _rest(low, high, extent.origin)))]


def _meet(begins: Shape, extents: Shape, extent: _records.Extent) -> tuple[Shape, Shape]:
    """Begin and end of what a stored box has of the wanted one; empty where end <= begin."""
    low = tuple(max(a, b) for a, b in zip(begins, extent.origin, strict=True))
    ends = zip(begins, extents, extent.origin, extent.shape, strict=True)
    return low, tuple(min(a + n, b + m) for a, n, b, m in ends)


def _rest(low: Sequence[int], high: Sequence[int], origin: Shape) -> Iterator[tuple[int, int, int]]:
    return zip(low[1:], high[1:], origin[1:], strict=True)


def _plan(index: Any, shape: Shape) -> tuple[Shape, Shape, tuple[Any, ...]]:
    """The box to read, and the index to apply to it: dropped dimensions, steps, reversals."""
    given = index if isinstance(index, tuple) else (index,)
    if any(part is Ellipsis for part in given):
        at = next(number for number, part in enumerate(given) if part is Ellipsis)
        given = (*given[:at], *[slice(None)] * (len(shape) - len(given) + 1), *given[at + 1 :])
    if len(given) > len(shape):
        raise IndexError(f"{len(given)} indices for a tensor of shape {shape}")
    given = (*given, *[slice(None)] * (len(shape) - len(given)))
    begins: list[int] = []
    extents: list[int] = []
    after: list[Any] = []
    for part, size in zip(given, shape, strict=True):
        if isinstance(part, slice):
            chosen = range(size)[part]
            begin, end = (min(chosen), max(chosen) + 1) if len(chosen) else (0, 0)
            after.append(slice(None, None, chosen.step))
        else:
            begin = range(size)[operator.index(part)]
            end = begin + 1
            after.append(0)
        begins.append(begin)
        extents.append(end - begin)
    return tuple(begins), tuple(extents), tuple(after)


def _read_part(path: str, reference: _records.PartRef, verify: bool) -> _records.Part:
    name = os.path.join(path, reference.name)
    if not _records.is_file_name(reference.name):
        raise DataLoss(f"{path}/DECISION names a part that cannot be", blob=reference.name)
    try:
        with open(name, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise DataLoss(f"{name} is missing", blob=reference.name) from None
    if len(data) != reference.size_bytes:
        raise DataLoss(f"{name} has {len(data)} bytes, not {reference.size_bytes}", blob=reference.name)
    if verify and _records.digest128 is not None and _records.digest128(data) != reference.digest:
        raise DataLoss(f"{name} is damaged: its digest differs", blob=reference.name)
    return _records.decode_part(data, name)


def _read_rows(
    path: str, extent: _records.Extent, first: int, last: int, row_bytes: int, verify: bool, tensor: str | None = None
) -> bytes | memoryview:
    """Bytes first … last (times `row_bytes`) of an extent; verified in whole blocks, counted from its start."""
    begin, end = first * row_bytes, last * row_bytes
    if end > extent.size_bytes:
        raise DataLoss(f"{tensor}: the stored box is larger than its bytes", tensor=tensor, blob=extent.blob)
    low, high = begin, end
    if verify:
        low = begin // _BLOCK_BYTES * _BLOCK_BYTES
        high = min(extent.size_bytes, -(-end // _BLOCK_BYTES) * _BLOCK_BYTES)
    try:
        with open(os.path.join(path, extent.blob), "rb") as file:
            file.seek(extent.offset_bytes + low)
            data = file.read(high - low)
    except FileNotFoundError:
        data = b""
    if len(data) != high - low:
        raise DataLoss(f"{extent.blob} is cut short", tensor=tensor, blob=extent.blob, offset_bytes=extent.offset_bytes)
    if verify:
        _verify_blocks(extent, low, data, tensor)
    return memoryview(data)[begin - low : end - low]


def _verify_blocks(extent: _records.Extent, low: int, data: bytes, tensor: str | None) -> None:
    assert _records.digest128 is not None
    view = memoryview(data)
    for at in range(0, len(data), _BLOCK_BYTES):
        block = (low + at) // _BLOCK_BYTES
        wanted = extent.block_digests[block * _DIGEST_BYTES : (block + 1) * _DIGEST_BYTES]
        if _records.digest128(view[at : at + _BLOCK_BYTES]) != wanted:
            where = extent.offset_bytes + low + at
            raise DataLoss(
                f"{extent.blob} is damaged at byte {where}; `keepstep verify` lists all damage, and an earlier step "
                "may be whole.",
                tensor=tensor, blob=extent.blob, offset_bytes=where,
            )  # fmt: skip
