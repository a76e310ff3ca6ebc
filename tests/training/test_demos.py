"""The demos do what they promise, in a short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.harness.daemon import REPOSITORY


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", f"tests.training.{module}", *arguments], cwd=REPOSITORY,
                          capture_output=True, text=True, timeout=600, check=False)


def test_pulling_the_plug_loses_nothing() -> None:
    ran = run("pull_the_plug", "--kills", "3")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 kills: nothing lost, nothing torn" in ran.stdout
    assert "0 findings" in " ".join(ran.stdout.split())


def test_steps_are_drawn_and_counted(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    ran = run("flat_steps", "--steps", "20", "--json", str(figures))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = {row["name"]: row for row in json.loads(figures.read_text())}
    assert set(rows) == {"no saves", "DCP async_save", "Keepstep"}
    assert all(len(row["seconds"]) == 20 and row["cost"] >= 0 for row in rows.values())
    strips = [line for line in ran.stdout.splitlines() if line.endswith(tuple("▁▂▃▄▅▆▇█"))]
    assert len(strips) == 3
