"""What children of test_cuda.py do: `python -m tests.fake_cuda.children NAME`. Each line they print is JSON, an answer;
each line they read is JSON, something to go on with."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from typing import Any

import numpy

from tests.fake_cuda.cuda import CudaError, Event, Gpu, Memory, call, device_count

MIB = 1 << 20


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def heard() -> Any:
    return json.loads(sys.stdin.readline())


def code_of(function: Any, *arguments: Any) -> int:
    """The error code of a call, 0 when it succeeds."""
    try:
        function(*arguments)
    except CudaError as error:
        return error.code
    return 0


def started(function: Any) -> None:
    """Says the code with which the child starts, and goes on only when that is 0."""
    code = code_of(function)
    say(code)
    if code:
        sys.exit(0)


def devices() -> None:
    say([Gpu(ordinal).uuid.hex() for ordinal in range(device_count())])


def round_trip() -> None:
    gpu = Gpu()
    block = gpu.alloc(3 * MIB)
    array = numpy.arange(MIB // 4, dtype=numpy.int32)
    block.fill(0x5A)
    block.write(array, offset_bytes=100)
    assert numpy.array_equal(block.read(array.nbytes, 100).view(numpy.int32), array)
    assert set(block.read(100)) == {0x5A} and set(block.read(offset_bytes=100 + MIB)) == {0x5A}
    pieces = gpu.alloc_pieces([2 * MIB, 3 * MIB], reserve_bytes=16 * MIB)
    pieces.grow(1)
    assert pieces.piece_sizes == [2 * MIB, 4 * MIB, 2 * MIB]
    content = numpy.random.default_rng(7).integers(0, 256, 8 * MIB, numpy.uint8)
    start, end = gpu.event(timed=True), gpu.event(timed=True)
    with gpu.stream() as stream:
        start.record(stream)
        pieces.write(content, stream=stream)
        block.copy_from(Memory(pieces.pointer + MIB, 3 * MIB), stream=stream)
        end.record(stream)
        pooled = gpu.alloc_from_pool(MIB, stream)
        pooled.fill(9, stream=stream)
        found = numpy.empty(MIB, numpy.uint8)
        pooled.read_into(found, stream=stream)
        pooled.free(stream)
    assert set(found) == {9}
    assert end.seconds_since(start) >= 0
    assert numpy.array_equal(pieces.read(), content)
    assert numpy.array_equal(block.read(), content[MIB:4 * MIB])
    pieces.shrink()
    pieces.free()
    block.free()
    say(code_of(block.read))


def contents() -> None:
    """Says which bytes new memory of each kind holds."""
    gpu = Gpu()
    stream = gpu.stream()
    made = [gpu.alloc(3 * MIB), gpu.alloc(5000), gpu.alloc_pieces([2 * MIB, 2 * MIB], reserve_bytes=4 * MIB),
            gpu.alloc_from_pool(MIB, stream)]
    stream.synchronize()
    say([sorted({int(byte) for byte in memory.read()}) for memory in made])


def gated() -> None:
    """A stream that stands at a word of registered memory until the parent says so."""
    gpu = Gpu()
    page = numpy.zeros(1024, numpy.uint32)
    block = gpu.alloc(4096)
    address = gpu.register(page)
    first, event = gpu.stream(), Event()
    first.wait_value(address, 1)
    block.fill(3, stream=first)
    event.record(first)
    first.write_value(address + 8, 5)
    say([first.done(), event.done(), int(page[2])])
    heard()
    page[0] = 1
    with gpu.stream() as second:
        second.wait_event(event)
    first.synchronize()
    say([first.done(), event.done(), int(page[2]), int(block.read(1)[0])])
    gpu.unregister(page)


def hold() -> None:
    """Holds one of everything until told to let go, and then until told to end."""
    started(Gpu)
    gpu = Gpu()
    block = gpu.alloc(4 * MIB)
    pieces = gpu.alloc_pieces([2 * MIB, 2 * MIB], reserve_bytes=8 * MIB)
    page = numpy.zeros(4096, numpy.uint8)
    gpu.register(page)
    stream, event = gpu.stream(), gpu.event()
    block.write(numpy.zeros(1000, numpy.uint8))
    block.read(500)
    block.fill(0x42)
    say(block.export().hex())
    heard()
    stream.destroy()
    event.destroy()
    gpu.unregister(page)
    pieces.free()
    block.free()
    gpu.close()
    gpu.close()
    say("released")
    heard()


def fork() -> None:
    """Says a handle; and then a child by fork, which lives until its input is closed, how it can allocate."""
    gpu = Gpu()
    block = gpu.alloc(MIB)
    say(block.export().hex())
    if os.fork() == 0:
        say(code_of(gpu.alloc, MIB))
        sys.stdin.readline()
        os._exit(0)
    signal.pause()


def importer() -> None:
    """Opens the handle that the parent gives, twice, and closes at its words."""
    gpu = Gpu()
    handle = bytes.fromhex(heard())
    opened = gpu.open(handle)
    again = gpu.open(handle)
    say([opened.pointer == again.pointer, opened.size_bytes, int(opened.read(1)[0])])
    heard()
    opened.close()
    say(int(again.read(1)[0]))
    heard()
    again.close()
    say(code_of(again.close))
    heard()


def open() -> None:
    """Says the code of opening the handle that the parent gives."""
    gpu = Gpu()
    handle = bytes.fromhex(heard())
    say(code_of(gpu.open, handle))
    heard()


def allocate() -> None:
    """Says the code of each allocation that the parent asks for, in bytes, and what is free after it."""
    gpu = Gpu()
    kept = []
    while (size := heard()) is not None:
        code = code_of(lambda size=size: kept.append(gpu.alloc(size)))
        say([code, gpu.free_bytes()])


def fail() -> None:
    """Allocates as often as the parent says: the codes, then that of a synchronize, which tells what is sticky."""
    gpu = Gpu()
    codes = [code_of(gpu.alloc, 4096) for _ in range(heard())]
    say([*codes, code_of(gpu.synchronize)])


def hang() -> None:
    """Says that the first allocation is done, and then makes the one that never returns."""
    gpu = Gpu()
    say(code_of(gpu.alloc, 4096))
    gpu.alloc(4096)
    say("returned")


def features() -> None:
    """What works: attributes, and the codes of the calls behind them."""
    gpu = Gpu()
    block = gpu.alloc(4096)
    page = numpy.zeros(1024, numpy.uint32)
    address = gpu.register(page)
    stream = gpu.stream()
    say({"attributes": [gpu.attribute(number) for number in (125, 102, 103, 92, 115, 20)],
         "ipc": code_of(block.export), "ipc_event": code_of(lambda: gpu.event(interprocess=True)),
         "vmm": code_of(lambda: gpu.alloc_pieces([1], exportable=False)),
         "posix_fd": code_of(lambda: gpu.alloc_pieces([1])),
         "words": code_of(stream.write_value, address, 1), "pool": code_of(gpu.alloc_from_pool, 4096, stream)})


def timed() -> None:
    """Seconds on the stream for 32 MiB to the host, from it, and across."""
    gpu = Gpu()
    block, other = gpu.alloc(32 * MIB), gpu.alloc(32 * MIB)
    host = numpy.zeros(32 * MIB, numpy.uint8)
    gpu.register(host)
    events = [gpu.event(timed=True) for _ in range(4)]
    with gpu.stream() as stream:
        events[0].record(stream)
        block.read_into(host, stream=stream)
        events[1].record(stream)
        block.write(host, stream=stream)
        events[2].record(stream)
        other.copy_from(block, stream=stream)
        events[3].record(stream)
    say([after.seconds_since(before) for before, after in itertools.pairwise(events)])


def start() -> None:
    say(code_of(call, "cuInit", 0))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
