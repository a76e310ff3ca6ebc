"""What a scrape says during and after saves and loads: the sums add up, and the page documents what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import keepstep
import numpy as np
import pytest

from tests.harness.daemon import REPOSITORY, Daemon
from tests.operations.http import Metrics, family_of, scrape

STATE_BYTES = 24 << 20
SAVES = 3


def assert_histograms_add_up(metrics: Metrics) -> None:
    """Buckets never fall, the last one is the count, and a count without observations has no sum."""
    for family, kind in metrics.types.items():
        if kind != "histogram":
            continue
        for labels, count in metrics.values[f"{family}_count"].items():
            buckets = sorted((float(dict(have)["le"]), value)
                             for have, value in metrics.values[f"{family}_bucket"].items()
                             if have - {("le", dict(have)["le"])} == labels)
            counts = [value for _, value in buckets]
            assert counts == sorted(counts) and counts[-1] == count and buckets[-1][0] == float("inf"), (family, labels)
            total = metrics.values[f"{family}_sum"][labels]
            assert (total == 0) if count == 0 else (total >= 0), (family, labels)


@pytest.fixture
def served(home: Path) -> Iterator[Daemon]:
    with Daemon(home, "--http-listen", "127.0.0.1:0", "--gpu", "on") as daemon:  # with all its metrics
        yield daemon


def train(daemon: Daemon, directory: Path, during: list[Metrics]) -> None:
    weights = np.zeros(STATE_BYTES // 8, dtype=np.uint32)
    moments = np.zeros(STATE_BYTES // 8, dtype=np.float32)
    with keepstep.Checkpointer(directory, daemon=daemon.address, rank=0, world_size=1, rng=False,
                               gated=True) as checkpointer:
        checkpointer.register(model={"weights": weights}, optimizer={"moments": moments})
        assert checkpointer.load() is None
        for step in range(1, SAVES + 1):
            checkpointer.before_update()
            weights += 1
            handle = checkpointer.save(step)
            during.append(scrape(daemon))
            handle.result(60)
        with pytest.raises(keepstep.KeepstepError) as refused:
            checkpointer.save(SAVES).result(60)
        assert refused.value.reason == "STEP_EXISTS"
    with keepstep.Checkpointer(directory, daemon=daemon.address, rank=0, world_size=1, rng=False) as checkpointer:
        checkpointer.register(model={"weights": weights}, optimizer={"moments": moments})
        assert checkpointer.load() == SAVES


def test_the_sums_add_up(served: Daemon, home: Path) -> None:
    during: list[Metrics] = []
    train(served, home / "job", during)
    for metrics in during:
        assert_histograms_add_up(metrics)
    metrics = scrape(served)
    assert_histograms_add_up(metrics)

    saved = SAVES * STATE_BYTES
    assert metrics.value("keepstep_saved_bytes_total") == saved
    assert metrics.value("keepstep_piece_bytes_total", stage="copy") == saved
    assert metrics.value("keepstep_piece_bytes_total", stage="digest") == saved
    written = metrics.value("keepstep_storage_written_bytes_total")
    assert saved <= written <= saved + SAVES * (1 << 20), "headers, padding and records, and nothing twice"
    assert metrics.value("keepstep_saves_total", outcome="committed", reason="") == SAVES
    assert metrics.value("keepstep_saves_total", outcome="failed", reason="STEP_EXISTS") == 1
    assert metrics.value("keepstep_saves_in_flight") == 0
    assert metrics.value("keepstep_save_seconds_count", until="commit") == SAVES
    for stage in ("journal", "copy", "persist", "part", "commit", "catalog"):
        assert metrics.value("keepstep_save_stage_seconds_count", stage=stage) == SAVES, stage
    assert metrics.value("keepstep_save_stage_seconds_count", stage="plan") >= 1
    stages = metrics.total("keepstep_save_stage_seconds_sum") - metrics.total("keepstep_save_stage_seconds_sum",
                                                                              stage="seal")
    whole = metrics.value("keepstep_save_seconds_sum", until="commit")
    assert stages <= whole * 1.05 + metrics.total("keepstep_save_stage_seconds_sum", stage="catalog")
    assert metrics.value("keepstep_save_gate_seconds_count") == SAVES
    assert metrics.total("keepstep_storage_errors_total") == 0

    assert metrics.value("keepstep_load_delivered_bytes_total") == STATE_BYTES
    assert metrics.value("keepstep_piece_bytes_total", stage="scatter") == STATE_BYTES
    unique = metrics.value("keepstep_load_unique_bytes_total")
    warm = metrics.value("keepstep_load_warm_bytes_total")
    read = metrics.value("keepstep_load_read_bytes_total")
    assert unique >= STATE_BYTES and unique - warm <= read <= unique - warm + (1 << 20)
    assert metrics.value("keepstep_piece_bytes_total", stage="verify") == unique - warm
    assert metrics.value("keepstep_loads_total", outcome="loaded", reason="") == 1
    assert metrics.value("keepstep_loads_total", outcome="nothing", reason="") == 1

    assert metrics.value("keepstep_pool_used_bytes") <= metrics.value("keepstep_pool_capacity_bytes")
    assert metrics.value("keepstep_pool_capacity_bytes") <= metrics.value("keepstep_pool_limit_bytes")
    assert metrics.value("keepstep_pool_high_water_bytes") > 0
    assert metrics.value("keepstep_last_commit_age_seconds", job="job", directory=str(home / "job")) < 60
    assert metrics.value("process_resident_memory_bytes") > 1 << 20


def test_the_page_lists_every_metric_and_no_other(served: Daemon, home: Path) -> None:
    train(served, home / "job", [])
    # A disk error is rare; its counter has no sample before the first one, and so no family in the text.
    there = set(scrape(served).types) | {"keepstep_storage_errors_total"}
    page = (REPOSITORY / "docs/operations.md").read_text()
    listed = set(re.findall(r"^\| `([a-z_]+)`", page, re.MULTILINE))
    assert there == listed, f"undocumented {sorted(there - listed)}, gone {sorted(listed - there)}"
    assert all(family_of(name, {}) == name for name in listed)
