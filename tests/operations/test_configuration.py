"""The configuration as an operator meets it: checked, printed, overridden, reloaded while the daemon runs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import keepstep
import numpy as np
import pytest

from tests.harness.daemon import KEEPSTEPD, Daemon


def keepstepd(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(KEEPSTEPD), *arguments], capture_output=True, text=True, timeout=30, check=False,
                          env={**os.environ, **environment})


def written(home: Path, text: str) -> str:
    file = home / "keepstep.yaml"
    file.write_text(text)
    return str(file)


def logged(daemon: Daemon, word: str, times: int = 1) -> str:
    """The log once `word` is in it so often; fails after 20 s."""
    deadline = time.monotonic() + 20
    while (text := daemon.log.read_text()).count(word) < times:
        assert time.monotonic() < deadline, f"no {word!r} in the log:\n{text}"
        time.sleep(0.02)
    return text


def test_check_says_one_line_and_the_exit_status(home: Path) -> None:
    good = keepstepd("--check", "--config", written(home, "pool: {bytes: 1GiB}\n"))
    assert good.returncode == 0 and good.stdout.count("\n") == 1 and "valid" in good.stdout and not good.stderr

    bad = keepstepd("--check", "--config", written(home, "roots: []\n\npool_byte: 1GiB\n"))
    assert bad.returncode == 1 and not bad.stdout
    assert bad.stderr == (f"keepstepd: unknown key 'pool_byte' at {home}/keepstep.yaml:3; "
                          "did you mean 'pool.bytes'?\n")

    for arguments in (["--config", str(home / "none.yaml")], ["--config", str(home)], ["--root", str(home / "none")],
                      ["--pool-bytes", "64gib"]):
        refused = keepstepd("--check", *arguments)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused
    assert keepstepd("--check", "--no-such-flag").returncode not in (0, 1)


def test_flags_win_over_environment_over_file(home: Path) -> None:
    file = written(home, "pool: {bytes: 1GiB}\nio: {engine: threads, uring_depth: 8}\n")
    printed = keepstepd("--print-config", "--io-uring-depth", "4", KEEPSTEP_CONFIG=file, KEEPSTEP_IO_ENGINE="uring",
                        KEEPSTEP_IO_URING_DEPTH="16", KEEPSTEP_ROOTS=f"{home}:/tmp")
    assert printed.returncode == 0, printed.stderr
    lines = {line.split("#")[0].strip(): line.split("# ")[1] for line in printed.stdout.splitlines() if ": " in line}
    assert lines["bytes: 1GiB"] == f"{file}:1"
    assert lines["engine: uring"] == "KEEPSTEP_IO_ENGINE"
    assert lines["uring_depth: 4"] == "--io-uring-depth"
    assert lines[f"roots: [{home}, /tmp]"] == "KEEPSTEP_ROOTS"
    assert lines["level: info"] == "default"

    again = keepstepd("--print-config", "--config", written(home, printed.stdout))
    strip = [[line.split("#")[0].strip() for line in text.splitlines()] for text in (printed.stdout, again.stdout)]
    assert again.returncode == 0 and strip[0] == strip[1]


def reload(daemon: Daemon, text: str) -> str:
    """Writes the configuration and waits until it is in effect; the log."""
    word = "configuration reloaded"
    before = daemon.log.read_text().count(word)
    written(daemon.home, text)
    os.kill(daemon.pid, signal.SIGHUP)
    return logged(daemon, word, before + 1)


def test_hangup_reloads_what_can_change_and_names_the_rest(home: Path) -> None:
    file = written(home, "log: {level: info}\n")
    with Daemon(home, "--config", file) as daemon:
        written(home, "log: {level: info, format: json}\ndrain: {limit: 7s}\npool: {bytes: 1GiB}\n")
        os.kill(daemon.pid, signal.SIGHUP)
        text = logged(daemon, "needs a restart")
        assert '"message":"changed","key":"log.format","from":"text","to":"json"' in text
        assert '"key":"drain.limit","from":"2min","to":"7s"' in text
        assert '"key":"pool.bytes","in_effect":"auto","configured":"1GiB"' in text

        written(home, "log: {level: loud}\n")
        os.kill(daemon.pid, signal.SIGHUP)
        assert "none of info|warning|error" in logged(daemon, "the old one stays in effect")
        assert daemon.alive() and daemon.command("status").returncode == 0
        assert '"message":"configuration not reloaded' in daemon.log.read_text(), "the format had changed to JSON"


def test_hangup_changes_limits_under_a_running_job(home: Path) -> None:
    file = written(home, "limits: {resume: 30s}\n")
    with Daemon(home, "--config", file) as daemon, keepstep.Checkpointer(
            daemon.root / "llama", daemon=daemon.address, rank=0, world_size=1, rng=False, on_error="warn") as ck:
        weights = np.zeros(1 << 20, np.uint8)
        ck.register(model={"w": weights})
        assert ck.load() is None
        ck.save(1).result(60)

        reload(daemon, "job: {quota_bytes: 1500KiB}\nlimits: {sessions: 1, saves_queued: 3}\n")
        with pytest.raises(keepstep.SaveFailed) as refused:
            ck.save(2).result(60)
        assert refused.value.reason == "QUOTA"
        assert "serves 1 sessions already" in daemon.command("status").stderr

        reload(daemon, "limits: {resume: 12s}\nthreads: {logic: 3}\n")
        logged(daemon, 'changed key="job.quota_bytes" from="1500KiB" to="none"')
        ck.save(3).result(60)
        limits = daemon.command("doctor").stdout
        assert "queued 8" in limits and "may resume within 12 s" in limits
        configuration = [line.split() for line in daemon.command("bundle", "-").stdout.splitlines()]
        assert ["resume:", "12s", "#", f"{file}:1"] in configuration
        assert ["logic:", "2", "#", "until", "a", "restart,", "then", "3"] in configuration
