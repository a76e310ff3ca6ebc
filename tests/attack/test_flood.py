"""More clients than storage can serve: memory stays within its limit, each gets an answer, another job goes on.

`KEEPSTEP_FLOOD=200` floods with as many clients.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.attack.api import LIMIT_SECONDS, Api, read, serves
from tests.attack.flooders import Flood, content, tally
from tests.attack.raw_session import COMMITTED, RawSession
from tests.attack.slow import Slow
from tests.harness.daemon import Daemon

MIB = 1 << 20
CLIENTS = int(os.environ.get("KEEPSTEP_FLOOD", "40"))
SAVES, STATE_BYTES = 3, 4 * MIB  # of each client: with 40, eight times the pool
POOL_BYTES, OVERHEAD_BYTES, WRITE_BYTES_A_SECOND = 64 * MIB, 150 * MIB, 64 * MIB
BACK_WITHIN_SECONDS = 20.0
ANSWERS = {"COMMITTED", "SKIPPED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}


def peak_resident_bytes(daemon: Daemon) -> int:
    """VmHWM: anonymous memory, files, and the pool's shared memory, each page of it that the daemon has touched."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def light_saves(daemon: Daemon, directory: Path, flood: Flood) -> list[float]:
    """One small job saves, one save after the other, until the flood is over: seconds from call to commit."""
    directory.mkdir()
    took: list[float] = []
    with RawSession(daemon, directory) as session:
        session.open()
        session.register("t", content(0, MIB))
        while not flood.over() or not took:
            begin = time.monotonic()
            status = session.save_and_seal(len(took) + 1, len(took) + 1)
            assert status.state == COMMITTED, status
            took.append(time.monotonic() - begin)
        session.goodbye()
    return took


@pytest.mark.skipif(not Slow.possible(), reason="needs control groups v1, memory and blkio, and root")
def test_a_flood_on_slow_storage_stays_within_its_memory(home: Path, generated: Path) -> None:
    limit = POOL_BYTES + OVERHEAD_BYTES
    arguments = ("--pool-bytes", f"{POOL_BYTES // MIB}MiB")
    with Slow(home, limit, WRITE_BYTES_A_SECOND) as slow:
        daemon = Daemon(home, *arguments, wrapper=slow.wrapper).start()
        try:
            with Api(daemon.address) as api:
                serves(api, daemon)
                before = descriptors(daemon)
                with Flood(daemon, daemon.root, generated, CLIENTS, STATE_BYTES, SAVES) as flood:
                    flood.registered()
                    begin = time.monotonic()
                    flood.begin()
                    light = light_saves(daemon, daemon.root / "light", flood)
                    told = flood.answers()
                    took = time.monotonic() - begin
                serves(api, daemon)
                peak, charged = peak_resident_bytes(daemon), slow.peak_bytes()
                check_answers(told, daemon.root, api)
                settled = back(daemon, api, before + CLIENTS + 1)  # each job that it knows: its directory
        finally:
            daemon.kill()
    print(f"\n{CLIENTS} clients, {dict(tally(told))} in {took:.1f} s; peak resident {peak / MIB:.0f} MiB, "
          f"charged {charged / MIB:.0f} of {limit / MIB:.0f} MiB; another job's {len(light)} saves: "
          f"median {np.median(light):.2f} s, worst {max(light):.2f} s; all back after {settled:.1f} s")  # fmt: skip
    assert peak <= limit


def check_answers(told: dict[str, list[str]], jobs: Path, api: Api) -> None:
    """One answer for each save, of the kinds allowed, and storage holds exactly what was told to be committed."""
    assert len(told) == CLIENTS
    for client, answers in told.items():
        assert len(answers) == SAVES, (client, answers)
        for answer in answers:
            state, *reason = answer.split()
            assert state in ANSWERS and (state == "COMMITTED" or reason), (client, answers)
        steps = {step for step, answer in enumerate(answers, 1) if answer == "COMMITTED"}
        job = jobs / f"flood{client}"
        assert {int(path.parts[-3]) for path in job.glob("[0-9]*/*/DECISION")} == steps, (client, answers)
    client = next(client for client, answers in told.items() if answers[-1] == "COMMITTED")
    assert read(api, f"flood{client}", SAVES, "t") == content(int(client), STATE_BYTES).tobytes()


def back(daemon: Daemon, api: Api, most: int) -> float:
    """Seconds until no session, no used staging memory and at most so many descriptors are left."""
    begin = time.monotonic()
    while True:
        status = api.node.Status(api.messages.StatusRequest(), timeout=LIMIT_SECONDS)
        held = descriptors(daemon)
        if status.sessions == 0 and status.pool_used_bytes == status.pool_cached_bytes and held <= most:
            return time.monotonic() - begin
        assert time.monotonic() < begin + BACK_WITHIN_SECONDS, (status.sessions, status.pool_used_bytes, held, most)
        time.sleep(0.05)
