"""Health, readiness and the page of a real daemon, and who sees what."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon, DaemonFailed
from tests.operations.http import get, over_unix_socket, parse, save_once, scrape


def test_health_readiness_and_the_page(home: Path) -> None:
    with Daemon(home, "--http-listen", "127.0.0.1:0") as daemon:
        assert get(daemon, "/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
        deadline = time.monotonic() + 20
        while get(daemon, "/readyz")[0] != 200:
            assert time.monotonic() < deadline, get(daemon, "/readyz")
        save_once(daemon, home / "root/llama-7b")
        status, kind, page = get(daemon, "/")
        assert status == 200 and kind == "text/html; charset=utf-8"
        assert "llama-7b" in page and ">7<" in page and "Nothing." in page
        facts = json.loads(get(daemon, "/status.json")[2])
        assert [job["job"] for job in facts["jobs"]] == ["llama-7b"]
        assert [stored["step"] for stored in facts["jobs"][0]["checkpoints"]] == [7]
        assert facts["problems"] == [] and facts["readiness"] == "ready"
        assert get(daemon, "/etc/passwd")[0] == 404


def test_a_stopped_daemon_answers_nothing_until_it_goes_on(home: Path) -> None:
    with Daemon(home, "--http-listen", "127.0.0.1:0") as daemon:
        save_once(daemon, home / "root/job")
        daemon.stop_running()
        try:
            with pytest.raises(OSError), socket.create_connection(tuple_of(daemon.http), timeout=5) as connection:
                connection.settimeout(1)
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                connection.recv(1)
        finally:
            daemon.go_on()
        assert get(daemon, "/healthz")[0] == 200


def tuple_of(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("http://").rpartition(":")
    return host, int(port)


def test_other_users_jobs_need_the_operators_token(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a directory away")
    token = home / "token"
    token.write_text("correct horse battery\n")
    token.chmod(0o600)
    with Daemon(home, "--http-listen", "127.0.0.1:0", "--http-token-file", str(token)) as daemon:
        save_once(daemon, home / "root/mine")
        save_once(daemon, home / "root/theirs")
        os.chown(home / "root/theirs", 12345, 12345)
        daemon.stop()
        daemon.start()
        for given, seen in (("", {"mine"}), ("wrong horse battery!!", {"mine"}),
                            ("correct horse battery", {"mine", "theirs"})):
            assert {job["job"] for job in json.loads(get(daemon, "/status.json", token=given)[2])["jobs"]} == seen
            ages = scrape(daemon, token=given).values["keepstep_last_commit_age_seconds"]
            assert {dict(labels)["job"] for labels in ages} == seen
        token.write_text("another secret of the operator\n")
        os.kill(daemon.pid, signal.SIGHUP)
        deadline = time.monotonic() + 20
        while len(json.loads(get(daemon, "/status.json", token="another secret of the operator")[2])["jobs"]) < 2:
            assert time.monotonic() < deadline, "the new token is not taken"
        assert len(json.loads(get(daemon, "/status.json", token="correct horse battery")[2])["jobs"]) == 1
        token.write_text("short\n")
        os.kill(daemon.pid, signal.SIGHUP)
        while "the operator's token stays as it was" not in daemon.log.read_text():
            assert time.monotonic() < deadline, daemon.tail()
        assert len(json.loads(get(daemon, "/status.json", token="another secret of the operator")[2])["jobs"]) == 2
        assert "1 more are not shown" in get(daemon, "/")[2]
        assert scrape(daemon).value("keepstep_jobs") == 2


def test_a_unix_socket_knows_who_asks(home: Path) -> None:
    with Daemon(home, "--http-listen", f"unix:{home}/http.sock") as daemon:
        save_once(daemon, home / "root/job")
        assert (home / "http.sock").stat().st_mode & 0o777 == 0o660
        assert parse(over_unix_socket(f"{home}/http.sock", "/metrics")).value("keepstep_jobs") == 1
        assert "job" in over_unix_socket(f"{home}/http.sock", "/")


def test_what_cannot_be_served_ends_the_start(home: Path) -> None:
    world_readable = home / "token"
    world_readable.write_text("correct horse battery\n")
    world_readable.chmod(0o644)
    for arguments, why in ((["0.0.0.0:7070"], "not loopback"),
                           (["127.0.0.1:0", "--http-token-file", str(world_readable)], "everybody may read")):
        daemon = Daemon(home, "--http-listen", *arguments)
        with pytest.raises(DaemonFailed, match=why):
            daemon.start()
    with Daemon(home, "--http-listen", "127.0.0.1:0") as first:
        other = home / "other"
        other.mkdir()
        second = Daemon(other, "--http-listen", first.http.removeprefix("http://"))
        with pytest.raises(DaemonFailed, match="cannot listen"):
            second.start()
