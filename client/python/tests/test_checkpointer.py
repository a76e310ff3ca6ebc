"""The Checkpointer's own rules, over a library that settles saves on command."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from fake_library import FakeLibrary, installed

import keepstep
from keepstep import _client, _containers, _ffi, _preemption


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibrary]:
    yield from installed(monkeypatch)


def opened(library: FakeLibrary, **options: object) -> keepstep.Checkpointer:
    checkpointer = keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1, **options)  # type: ignore[arg-type]
    checkpointer.register(
        model={"w": np.zeros(3)}, optimizer={"m": keepstep.Sharded(np.zeros(3), (3,), group=2)}
    )
    return checkpointer


# Without a gate in the training loop, returning earlier would let the next update tear the copy.
def test_save_waits_for_the_copy_unless_the_loop_is_gated(library: FakeLibrary) -> None:
    opened(library).save(1)
    assert library.updates == [0, 2]
    gated = opened(library, gated=True)
    gated.save(2)
    assert library.updates == [0, 2]
    gated.before_update()
    assert library.updates == [0, 2, 0, 2]


def test_handle_follows_the_save(library: FakeLibrary) -> None:
    checkpointer = opened(library)
    handle = checkpointer.save(5)
    assert (handle.step, handle.state, handle.done()) == (5, "ACCEPTED", False)
    with pytest.raises(keepstep.SaveTimeout):
        handle.result(timeout=0)
    called = threading.Event()
    handle.add_done_callback(lambda over: called.set())
    library.settle(1, "COMMITTED")
    assert handle.result() == 5 and handle.exception() is None and handle.stats["state"] == "COMMITTED"
    assert called.wait(10)
    checkpointer.close()
    assert library.closed and handle.state == "COMMITTED"


def test_failures_warn_then_raise_after_the_third_in_a_row(
    library: FakeLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer = opened(library)
    for step in range(1, 5):
        handle = checkpointer.save(step)
        library.settle(step, "FAILED", "TRAINER_DIED")
        told = handle.exception()
        assert told is not None and (told.rank, told.reason, told.step) == (3, "TRAINER_DIED", step)
    with pytest.raises(keepstep.SaveFailed, match="rank 3 died"):
        checkpointer.save(5)
    library.settle(5, "COMMITTED")
    with pytest.raises(keepstep.SaveFailed):
        checkpointer.close()
    assert library.closed
    assert [record.message.count("not committed") for record in caplog.records] == [1] * 4


def test_on_error_raise_raises_at_a_later_save(library: FakeLibrary) -> None:
    checkpointer = opened(library, on_error="raise")
    checkpointer.save(1)
    library.settle(1, "FAILED", "DISK_FULL")
    checkpointer.save(2)  # the newest accepted save before this one may still be undecided elsewhere
    with pytest.raises(keepstep.SaveFailed) as caught:
        checkpointer.save(3)
    assert caught.value.step == 1 and caught.value.reason == "DISK_FULL"


def test_a_skipped_save_is_over_and_no_failure(library: FakeLibrary) -> None:
    checkpointer = opened(library, on_busy="skip", on_error="raise")
    library.first_state = _ffi.STATES.index("SKIPPED")
    handle = checkpointer.save(1)
    assert handle.done() and handle.state == "SKIPPED"
    with pytest.raises(keepstep.SaveFailed) as caught:
        handle.result()
    assert caught.value.state == "SKIPPED"
    checkpointer.close()


# A daemon that restarts must not end the training run at the next save.
def test_an_unreachable_daemon_is_a_failed_save(library: FakeLibrary) -> None:
    checkpointer = opened(library, max_failures=2)
    library.unreachable = True
    handle = checkpointer.save(1)
    assert handle.done() and isinstance(handle.exception(), keepstep.SaveFailed)
    library.unreachable = False
    good = checkpointer.save(2)
    library.settle(1, "COMMITTED")
    assert good.result() == 2
    checkpointer.close()


# The save in flight when a daemon dies is of unknown outcome until there is one again, perhaps never.
def test_training_goes_on_without_a_daemon_whatever_became_of_the_last_save(library: FakeLibrary) -> None:
    checkpointer = opened(library, max_failures=4)
    checkpointer.save(1)
    checkpointer.save(2)
    library.unreachable = True
    assert [checkpointer.save(step).state for step in (3, 4, 5)] == ["FAILED"] * 3
    with pytest.raises(keepstep.SaveFailed):
        checkpointer.save(6)
    library.unreachable = False
    for number in (1, 2):
        library.settle(number, "COMMITTED")
    assert checkpointer.save(7).step == 7


def test_load_gives_back_extra_state_and_generators(library: FakeLibrary) -> None:
    seen: list[object] = []
    state = {"at": 7}
    checkpointer = opened(library)
    checkpointer.register(model={"w": np.zeros(3)}, loader=(lambda: state, seen.append))
    assert checkpointer.load() is None and seen == []
    handle = checkpointer.save(9)
    library.settle(1, "COMMITTED")
    handle.result()
    drawn = random.random()
    library.loaded_step = 9
    assert checkpointer.load() == 9
    assert seen == [{"at": 7}] and random.random() == drawn and checkpointer.extras["loader"] == {"at": 7}


def test_misuse_says_what_to_do(library: FakeLibrary) -> None:
    checkpointer = keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1)
    with pytest.raises(keepstep.KeepstepError, match="register"):
        checkpointer.save(1)
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    checkpointer.register(model={"w": frozen})
    with pytest.raises(ValueError, match="w is read-only"):
        checkpointer.load()
    checkpointer.close()
    with pytest.raises(keepstep.KeepstepError, match="closed"):
        checkpointer.before_update(0)
    with pytest.raises(ValueError, match="on_busy"):
        keepstep.Checkpointer("/ckpt/job", on_busy="never")  # type: ignore[arg-type]


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ffi, "_loaded", None)
    monkeypatch.setenv("KEEPSTEP_LIBRARY", "/nonexistent/libkeepstep.so")
    with pytest.raises(keepstep.DaemonUnavailable, match="bazel build"):
        keepstep.Checkpointer("/ckpt/job")


# The worst known bug of this field: an array that has left the model is saved, and nobody notices.
@pytest.mark.parametrize("versioned", [True, False])
def test_a_replaced_array_is_registered_again_at_the_save(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch, versioned: bool
) -> None:
    if not versioned:
        monkeypatch.setattr(_containers, "_VERSIONED", False)
    model = {"layers": [{"w": np.zeros(3)}, {"w": np.zeros(3)}]}
    checkpointer = keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1)
    checkpointer.register(model=model)
    checkpointer.save(1)
    library.settle(1, "COMMITTED")
    assert library.registrations == 1
    replaced = model["layers"][1]["w"] = np.ones(4)
    model["layers"][0]["b"] = np.ones(2)
    checkpointer.save(2)
    library.settle(2, "COMMITTED")
    assert library.registrations == 2
    assert library.registered == ["layers.0.w", "layers.0.b", "layers.1.w"]
    assert library.addresses["layers.1.w"] == replaced.ctypes.data
    model["layers"].pop()
    checkpointer.save(3)
    assert library.registrations == 3 and library.registered == ["layers.0.w", "layers.0.b"]


# `before_update` calls the library once after each save, and again where that could refuse it.
def test_an_open_gate_is_passed_without_a_call(library: FakeLibrary) -> None:
    checkpointer = opened(library, gated=True)
    for _ in range(3):
        checkpointer.before_update()
    assert library.updates == [0, 2]
    checkpointer.save(1)
    checkpointer.before_update(2)
    checkpointer.before_update(2)
    assert library.updates == [0, 2, 2]
    checkpointer.before_update()
    assert library.updates == [0, 2, 2, 0, 2]
    library.settle(1, "COMMITTED")
    checkpointer.close()
    with pytest.raises(keepstep.KeepstepError, match="closed"):
        checkpointer.before_update()


# Slurm and Kubernetes send SIGTERM some time before they kill; the handlers of the program still run.
def test_a_first_sigterm_becomes_one_wish_and_a_second_one_is_the_programs(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    monkeypatch.setattr(_preemption, "_installed", False)
    monkeypatch.setattr(_preemption, "_noticed", threading.Event())
    try:
        checkpointer, deaf = opened(library), opened(library, preemption=False)
        assert not _preemption._installed  # a program that never asks ends as it always did
        assert not checkpointer.should_save(1) and not checkpointer.preempted and library.wishes == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert checkpointer.preempted and not deaf.preempted and heard == [signal.SIGTERM]
        assert [checkpointer.should_save(step) for step in (2, 3)] == [False, False]
        deaf.should_save(2)
        assert library.wishes == 1
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


# Crash flush proves a step by what is announced: waits of save and load are no updates, and each update counts anew.
def test_with_rescue_updates_are_announced_and_steps_noted(library: FakeLibrary) -> None:
    checkpointer = opened(library, gated=True, rescue=True)
    assert library.rescue == 1
    for step in (1, 2):
        checkpointer.before_update(stream=7)
        checkpointer.after_update(stream=7)
        assert checkpointer.should_save(step, every=2) is (step == 2)
    assert library.announced == 2 * [("before", 0, 7), ("before", 2, 7), ("after", 0, 7), ("after", 2, 7)]
    assert library.notes == [(1, ["keepstep.rng"]), (2, ["keepstep.rng"])]
    checkpointer.load()
    assert library.notes[2:] == [(-1, [])], "what a load fills is no step"
    assert library.updates == []
    assert checkpointer.rescue == _client.Rescue(False, None, "its probe failed")


def test_without_rescue_nothing_is_noted(library: FakeLibrary) -> None:
    checkpointer = opened(library)
    checkpointer.should_save(1)
    checkpointer.save(1)
    assert (library.rescue, library.notes, library.awaited) == (0, [], [])
    with pytest.raises(ValueError, match="reader"):
        keepstep.Checkpointer("/ckpt/job", read_only=True, rescue=True)
