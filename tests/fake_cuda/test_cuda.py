"""The wrapper of the driver API, and what a test can set of the fake driver (options.h) and read of it (counters.h)."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fake_cuda.counters import Counters
from tests.fake_cuda.environment import LIBRARY, MISSING, environment
from tests.harness.daemon import REPOSITORY

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)

MIB = 1 << 20
APART = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, UNAVAILABLE, INVALID_DEVICE = 1, 2, 3, 46, 101
LAUNCH_FAILED, NOT_SUPPORTED = 719, 801


class Child:
    """One of children.py, on the fake driver set up by `variables`."""

    def __init__(self, name: str, variables: dict[str, str], wrapper: Sequence[str] = (), **more: str) -> None:
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "tests.fake_cuda.children", name], cwd=REPOSITORY, text=True,
            env={**os.environ, **variables, **more}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.pid = self._process.pid

    def hear(self) -> Any:
        assert self._process.stdout and self._process.stderr
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        return json.loads(line)

    def ask(self, value: Any = None) -> Any:
        self.tell(value)
        return self.hear()

    def tell(self, value: Any = None) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def silent_for(self, seconds: float) -> bool:
        """Whether it says nothing for so long. A slow machine can make this true, never false."""
        assert self._process.stdout
        return not select.select([self._process.stdout], [], [], seconds)[0]

    def wait(self) -> None:
        self._process.wait()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def child() -> Iterator[Any]:
    """Makes children, all of which are ended afterwards."""
    made: list[Child] = []

    def make(name: str, variables: dict[str, str], wrapper: Sequence[str] = (), **more: str) -> Child:
        made.append(Child(name, variables, wrapper, **more))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def counters(tmp_path: Path) -> Counters:
    return Counters(tmp_path / "counters")


def test_memory_of_every_kind_is_written_and_read(child: Any) -> None:
    assert child("round_trip", environment()).hear() == INVALID_VALUE  # of what was freed


@pytest.mark.parametrize("dirty", [False, True])
def test_new_memory_holds_what_the_test_says(child: Any, dirty: bool) -> None:
    assert child("contents", environment(dirty=dirty)).hear() == 4 * [[0xDB if dirty else 0]]


def test_a_stream_stands_at_its_gate(child: Any) -> None:
    gated = child("gated", environment())
    assert gated.hear() == [False, False, 0]
    assert gated.ask() == [True, True, 5, 3]


def test_gpus_are_told_by_uuid_in_any_order(child: Any) -> None:
    first, second = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
    assert child("devices", environment(uuids=[first, second])).hear() == [first, second]
    assert child("devices", environment(uuids=[second, first])).hear() == [second, first]
    visible = environment(uuids=[first, second])
    assert child("devices", visible, CUDA_VISIBLE_DEVICES="1").hear() == [second]
    assert child("devices", visible, CUDA_VISIBLE_DEVICES="GPU-ffeeddcc,0").hear() == [second, first]
    assert child("devices", visible, CUDA_VISIBLE_DEVICES="0,7,1").hear() == [first]
    assert len(set(child("devices", environment(devices=3)).hear())) == 3


def test_no_gpu_is_an_error_of_its_own(child: Any) -> None:
    assert child("start", environment(devices=0)).hear() == 100
    assert child("start", environment(), CUDA_VISIBLE_DEVICES="").hear() == 100


@pytest.mark.parametrize("setting", [{"off": ["everything"]}, {"faults": ["cuMemAlloc:2"]}, {"uuids": ["12"]},
                                     {"faults": ["cuMemAlloc:0:2"]}, {"faults": ["cuMemAlloc_:1:2"]},
                                     {"devices": 17}, {"h2d_gbps": -1}])
def test_settings_without_sense_are_refused(child: Any, setting: dict[str, Any]) -> None:
    assert child("start", environment(**setting)).hear() == 1


def test_everything_held_is_counted_until_it_is_let_go(child: Any, counters: Counters) -> None:
    holder = child("hold", environment(counters=counters.path))
    assert holder.hear() == 0
    handle = holder.hear()
    assert counters.held(holder.pid) == {
        "contexts": 1, "allocations": 3, "allocated_bytes": 8 * MIB, "vmm_mappings": 2, "registered_bytes": 4096,
        "streams": 1, "events": 1, "reserved_bytes": 8 * MIB}
    assert (counters.total("host_to_device_bytes"), counters.total("device_to_host_bytes")) == (1000, 500)
    opener = child("importer", environment(counters=counters.path))
    assert opener.ask(handle) == [True, 4 * MIB, 0x42]
    assert counters.held(opener.pid) == {"contexts": 1, "imports": 1}  # opened twice, mapped once
    assert opener.ask() == 0x42
    assert counters.held(opener.pid) == {"contexts": 1, "imports": 1}
    assert opener.ask() == 1  # a third close
    assert counters.held(opener.pid) == {"contexts": 1}
    assert holder.ask() == "released"
    assert counters.held(holder.pid) == {}


def test_a_killed_process_holds_nothing(child: Any, counters: Counters) -> None:
    holder = child("hold", environment(counters=counters.path))
    holder.hear()
    holder.hear()
    assert counters.held()
    holder.end()
    assert counters.held() == {}
    [dead] = counters.processes()
    assert (dead.pid, dead.alive, dead.counts["allocations"]) == (holder.pid, False, 3)


def test_a_child_by_fork_has_no_part_in_it(child: Any, counters: Counters) -> None:
    parent = child("fork", environment(counters=counters.path))
    handle = parent.hear()
    assert parent.hear() == NOT_INITIALIZED
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()  # the fork still has the pipes, and whatever descriptors it was left with
    assert counters.held() == {}
    assert child("open", environment(counters=counters.path)).ask(handle) == INVALID_VALUE


def test_a_handle_of_another_gpu_is_refused(child: Any) -> None:
    exporter = child("hold", environment(uuids=["11" * 16, "22" * 16]))
    exporter.hear()
    handle = exporter.hear()
    assert child("open", environment(uuids=["22" * 16])).ask(handle) == INVALID_DEVICE
    assert child("open", environment(uuids=["22" * 16, "11" * 16])).ask(handle) == 0


def may_unshare() -> bool:
    return subprocess.run([*APART, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="needs the right to make a PID namespace")
def test_a_legacy_handle_ends_at_a_pid_namespace(child: Any, counters: Counters) -> None:
    variables = environment(counters=counters.path)
    exporter = child("hold", variables)
    exporter.hear()
    handle = exporter.hear()
    apart = child("open", variables, wrapper=APART)
    assert apart.ask(handle) == INVALID_VALUE
    assert len(counters.processes()) == 2  # they still share the counters
    assert child("open", variables).ask(handle) == 0


def test_processes_share_the_memory_of_a_gpu(child: Any, counters: Counters) -> None:
    variables = environment(counters=counters.path, memory_bytes=10 * MIB)
    first, second = child("allocate", variables), child("allocate", variables)
    assert first.ask(6 * MIB) == [0, 4 * MIB]
    assert second.ask(6 * MIB) == [OUT_OF_MEMORY, 4 * MIB]
    assert second.ask(3 * MIB) == [0, MIB]
    first.end()
    assert second.ask(6 * MIB) == [0, MIB]


def test_an_exclusive_gpu_has_one_process(child: Any, counters: Counters) -> None:
    variables = environment(counters=counters.path, exclusive=True)
    first = child("hold", variables)
    assert first.hear() == 0
    first.hear()
    assert child("hold", variables).hear() == UNAVAILABLE
    first.end()
    assert child("hold", variables).hear() == 0


def test_a_call_fails_at_its_turn(child: Any) -> None:
    assert child("fail", environment(faults=["cuMemAlloc:2:2"])).ask(4) == [0, OUT_OF_MEMORY, 0, 0, 0]
    assert child("fail", environment(faults=["cuMemAlloc:*:2"])).ask(2) == [OUT_OF_MEMORY, OUT_OF_MEMORY, 0]


def test_a_sticky_error_stays(child: Any) -> None:
    codes = child("fail", environment(faults=["cuMemAlloc:2:719"])).ask(3)
    assert codes == [0, LAUNCH_FAILED, LAUNCH_FAILED, LAUNCH_FAILED]


def test_a_fault_that_happens_once_is_one_process_s_alone(child: Any, counters: Counters) -> None:
    variables = environment(counters=counters.path, faults=["cuMemAlloc:1:719:once"])
    assert child("fail", variables).ask(1) == [LAUNCH_FAILED, LAUNCH_FAILED]
    assert child("fail", variables).ask(1) == [0, 0]


def test_a_call_hangs(child: Any, counters: Counters) -> None:
    hanging = child("hang", environment(counters=counters.path, faults=["cuMemAlloc:2:hang"]))
    assert hanging.hear() == 0
    assert hanging.silent_for(seconds=0.5)
    assert counters.held(hanging.pid)["allocations"] == 1  # the first went through
    hanging.end()  # and such a process can be killed


@pytest.mark.parametrize(("off", "attributes", "refused"), [
    ([], [1, 1, 1, 1, 1, 0], set()),
    (["ipc"], [0, 1, 1, 1, 1, 0], {"ipc", "ipc_event"}),
    (["vmm"], [1, 0, 0, 1, 1, 0], {"vmm", "posix_fd"}),
    (["posix_fd"], [1, 1, 0, 1, 1, 0], {"posix_fd"}),
    (["stream_memory_operations", "pools"], [1, 1, 1, 0, 0, 0], {"words", "pool"}),
])
def test_features_are_off(child: Any, off: list[str], attributes: list[int], refused: set[str]) -> None:
    found = child("features", environment(off=off)).hear()
    assert found.pop("attributes") == attributes
    assert {name for name, code in found.items() if code == NOT_SUPPORTED} == refused
    assert {name for name, code in found.items() if code not in (0, NOT_SUPPORTED)} == set()


def test_copies_take_their_time(child: Any) -> None:
    bandwidths = (0.5, 1.0, 2.0)
    to_host, to_device, across = bandwidths
    found = child("timed", environment(d2h_gbps=to_host, h2d_gbps=to_device, d2d_gbps=across)).hear()
    for seconds, bandwidth in zip(found, bandwidths, strict=True):
        assert seconds >= 0.999 * 32 * MIB / (bandwidth * 1e9)
