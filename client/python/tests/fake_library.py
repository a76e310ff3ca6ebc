"""A libkeepstep of one process: remembers what it was given, and settles saves when a test says so."""

from __future__ import annotations

import ctypes as c
import threading
from collections.abc import Iterator

import pytest

from keepstep import _ffi


class FakeLibrary:
    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.states: dict[int, int] = {}  # number → state
        self.steps_saved: dict[int, int] = {}
        self.reasons: dict[int, str] = {}
        self.registered: list[str] = []
        self.registrations = 0
        self.addresses: dict[str, int] = {}
        self.extras: dict[str, bytes] = {}
        self.updates: list[int] = []
        self.first_state = _ffi.ACCEPTED
        self.closed = False
        self.unreachable = False
        self.wishes = 0
        self.loaded_step: int | None = None
        self.kept: list[object] = []
        self.retention = (-1, -1)
        self.rescue = -1
        self.awaited: list[int] = []
        self.announced: list[tuple[str, int, int]] = []
        self.notes: list[tuple[int, list[str]]] = []

    def settle(self, number: int, state: str, reason: str = "") -> None:
        with self.lock:
            self.states[number] = _ffi.STATES.index(state)
            self.reasons[number] = reason
            self.lock.notify_all()

    def ks_default_address(self) -> bytes:
        return b"unix:///nobody/keepstep.sock"

    def ks_open(self, options: object, client: object, error: object) -> int:
        client._obj.value = 1  # type: ignore[attr-defined]
        told = options._obj  # type: ignore[attr-defined]
        self.retention = (told.keep_last, told.keep_every)
        self.rescue = told.rescue
        return 0

    def ks_close(self, client: object) -> None:
        self.closed = True

    def ks_get_info(self, client: object, info: object, error: object) -> int:
        info._obj.job = b"job"  # type: ignore[attr-defined]
        return 0

    def ks_register(self, client: object, shards: object, count: int, error: object) -> int:
        self.registered = [shards[index].fqn.decode() for index in range(count)]  # type: ignore[index]
        self.addresses = {name: shards[index].data for index, name in enumerate(self.registered)}  # type: ignore[index]
        self.registrations += 1
        return 0

    def ks_save(self, client: object, step: int, options: object, number: object, error: object) -> int:
        if self.unreachable:
            return 14
        told = options._obj  # type: ignore[attr-defined]
        for index in range(told.extra_count):
            extra = told.extras[index]
            self.extras[extra.name.decode()] = c.string_at(extra.items[0], extra.item_bytes[0])
        with self.lock:
            taken = len(self.states) + 1
            self.states[taken], self.steps_saved[taken] = self.first_state, step
        number._obj.value = taken  # type: ignore[attr-defined]
        return 0

    def ks_before_update(self, client: object, group: int, timeout_ms: int, error: object) -> int:
        self.updates.append(group)
        return 0

    def ks_await_gate(self, client: object, group: int, timeout_ms: int, error: object) -> int:
        self.awaited.append(group)
        return 0

    def ks_before_update_on(self, client: object, group: int, stream: int, timeout_ms: int, error: object) -> int:
        self.announced.append(("before", group, stream))
        return 0

    def ks_after_update_on(self, client: object, group: int, stream: int, error: object) -> int:
        self.announced.append(("after", group, stream))
        return 0

    def ks_note_step(self, client: object, step: int, options: object, error: object) -> int:
        told = options._obj  # type: ignore[attr-defined]
        self.notes.append((step, sorted(told.extras[index].name.decode() for index in range(told.extra_count))))
        return 0

    def ks_get_rescue(self, client: object, info: object, error: object) -> int:
        told = info._obj  # type: ignore[attr-defined]
        told.on, told.step, told.why_not = 0, -1, b"its probe failed"
        return 0

    def ks_wait(
        self, client: object, number: int, state: int, timeout_ms: int, status: object, error: object
    ) -> int:
        def reached() -> bool:
            return self.states[number] >= state

        with self.lock:
            if not self.lock.wait_for(reached, timeout_ms / 1000):
                status._obj.state = self.states[number]  # type: ignore[attr-defined]
                return _ffi.DEADLINE_EXCEEDED
            told = status._obj  # type: ignore[attr-defined]
            told.number, told.step, told.state = number, self.steps_saved[number], self.states[number]
            if self.reasons.get(number):
                told.error.code, told.error.rank = 10, 3
                told.error.reason = self.reasons[number].encode()
                told.error.message = b"rank 3 died while copying"
        return 0

    def ks_should_save(self, client: object, step: int, every: int) -> int:
        return int(every > 0 and step % every == 0)

    def ks_wish_save(self, client: object, error: object) -> int:
        self.wishes += 1
        return 0

    def ks_load(self, client: object, options: object, report: object, error: object) -> int:
        report._obj.found = int(self.loaded_step is not None)  # type: ignore[attr-defined]
        report._obj.step = self.loaded_step or 0  # type: ignore[attr-defined]
        return 0

    def ks_get_extras(
        self, client: object, latest: int, step: int, rank: int, data: object, size: object, error: object
    ) -> int:
        body = step.to_bytes(8, "little") + len(self.extras).to_bytes(4, "little")
        for name, value in self.extras.items():
            body += len(name).to_bytes(4, "little") + name.encode() + bytes(9)
            body += (1).to_bytes(4, "little") + len(value).to_bytes(8, "little") + value
        buffer = c.create_string_buffer(body, len(body))
        self.kept.append(buffer)
        data._obj.value, size._obj.value = c.addressof(buffer), len(body)  # type: ignore[attr-defined]
        return 0

    def ks_free(self, memory: object) -> None:
        self.kept.clear()


def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibrary]:
    """In libkeepstep's place; afterwards every save is settled, so that no thread waits for one."""
    fake = FakeLibrary()
    monkeypatch.setattr(_ffi, "library", lambda: fake)
    yield fake
    for number, state in fake.states.items():
        if state < _ffi.COMMITTED:
            fake.settle(number, "COMMITTED")
