"""What a save is called with, as `ks_save` takes it."""

from __future__ import annotations

import ctypes as c
from collections.abc import Mapping, Sequence
from typing import Any

from keepstep import _ffi
from keepstep.extras import Packed


class SaveOptions:
    """The options of one client's saves. Extra state that is the same object as at the save before is not wrapped anew.

    One thread at a time.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._wrapped: list[tuple[Packed, Any]] = []  # with what its struct points to
        self._extras = (_ffi.Extra * 1)()

    def build(
        self, on_busy: str, extras: Mapping[str, Packed], metrics: Mapping[str, float], tags: Sequence[str],
        streams: Sequence[int], timeout_ms: int,
    ) -> _ffi.SaveOptions:  # fmt: skip
        """Valid until the next call."""
        self._wrap(extras)
        options = _ffi.SaveOptions(
            struct_bytes=c.sizeof(_ffi.SaveOptions),
            on_busy=_ffi.ON_BUSY[on_busy],
            extras=self._extras,
            extra_count=len(extras),
            timeout_ms=timeout_ms,
        )
        if metrics:
            options.metric_names = _ffi.strings(list(metrics))
            options.metric_values = (c.c_double * len(metrics))(*metrics.values())
            options.metric_count = len(metrics)
        if tags:
            options.tags = _ffi.strings(list(tags))
            options.tag_count = len(tags)
        if streams:
            options.streams = (c.c_void_p * len(streams))(*streams)
            options.stream_count = len(streams)
        return options

    def _wrap(self, extras: Mapping[str, Packed]) -> None:
        names = tuple(extras)
        if names != self._names:
            self._names, self._wrapped = names, [(Packed(()), None)] * len(names)
            self._extras = (_ffi.Extra * max(1, len(names)))()
        for index, (name, packed) in enumerate(extras.items()):
            if packed is self._wrapped[index][0]:
                continue
            count = len(packed.items)
            items = (c.c_void_p * count)(*[c.cast(c.c_char_p(data), c.c_void_p) for data in packed.items])
            sizes = (c.c_size_t * count)(*map(len, packed.items))
            target = self._extras[index]
            target.name, target.items, target.item_bytes, target.item_count = name.encode(), items, sizes, count
            target.splittable = int(packed.splittable)
            self._wrapped[index] = packed, (items, sizes)
