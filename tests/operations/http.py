"""Gives a daemon something to show, asks it over HTTP, and reads Prometheus' text format strictly."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import keepstep
import numpy as np

from tests.harness.daemon import Daemon

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf'({NAME})(?:\{{(.*)\}})? (\S+)')
LABEL = re.compile(rf'({NAME})="((?:[^"\\\n]|\\\\|\\"|\\n)*)"')

Labels = frozenset[tuple[str, str]]


def save_once(daemon: Daemon, directory: Path) -> None:
    with keepstep.Checkpointer(directory, daemon=daemon.address, rank=0, world_size=1, rng=False) as checkpointer:
        checkpointer.register(model={"value": np.ones(1000)})
        checkpointer.save(7).result(60)


def get(daemon: Daemon, path: str, *, token: str = "") -> tuple[int, str, str]:
    """Status, content type and body."""
    request = urllib.request.Request(daemon.http + path)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def over_unix_socket(path: str, target: str) -> str:
    """The body of a GET over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(path)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: keepstep\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body.decode()


@dataclass
class Metrics:
    """What one scrape said: types by family, values by name and labels."""

    types: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[Labels, float]] = field(default_factory=dict)

    def value(self, name: str, **labels: str) -> float:
        """The one sample with exactly these labels."""
        return self.values[name][frozenset(labels.items())]

    def total(self, name: str, **labels: str) -> float:
        """The sum over samples that have these labels among theirs."""
        wanted = set(labels.items())
        return sum(value for have, value in self.values.get(name, {}).items() if wanted <= have)


def family_of(name: str, types: dict[str, str]) -> str:
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base != name and types.get(base) == "histogram":
            return base
    return name


def parse(text: str) -> Metrics:
    """Raises AssertionError for anything that the format does not allow."""
    metrics = Metrics()
    helped: set[str] = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in helped, f"{name} comes twice"
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in metrics.types and kind in ("counter", "gauge", "histogram"), line
            metrics.types[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            assert family_of(name, metrics.types) in metrics.types, f"{name} has no type"
            found = LABEL.findall(labels or "")
            assert ",".join(f'{key}="{text}"' for key, text in found) == (labels or "").rstrip(","), line
            samples = metrics.values.setdefault(name, {})
            key = frozenset(found)
            assert key not in samples, f"{line}: a sample comes twice"
            samples[key] = float(value)
    return metrics


def scrape(daemon: Daemon, *, token: str = "") -> Metrics:
    status, kind, text = get(daemon, "/metrics", token=token)
    assert status == 200 and kind.startswith("text/plain; version=0.0.4"), (status, kind)
    return parse(text)
