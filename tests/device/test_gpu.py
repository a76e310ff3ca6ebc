"""GPU memory saved and loaded through the daemon, on the fake driver: every layout, by every path, bit for bit."""

from __future__ import annotations

import re
from pathlib import Path

import keepstep
import pytest

from tests.device.gpus import Gpus
from tests.device.tensors import expected
from tests.fake_cuda.environment import LIBRARY, MISSING

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)

ON = {
    "one_each": "host by pull; 4 allocations by ipc",
    "many": "host by pull; 1 allocation by ipc",
    "segment": "host by pull; 9 allocations by vmm",
    "views": "host by pull; 1 allocation by ipc",
    "pool": "host by window; 2 allocations by window",
    "mixed": "host by window; 6 allocations by ipc, 9 by vmm, 2 by window",
    "two_gpus": "host by pull; 8 allocations by ipc, 9 by vmm",
}


@pytest.mark.parametrize("layout", ON)
def test_every_layout_is_saved_and_restored_bit_for_bit(home: Path, layout: str) -> None:
    with Gpus(home, "on") as gpus, gpus.trainer("round_trip", layout) as trainer:
        told = trainer.heard()
        assert told == {"differing": {"1": [], "2": []}, "paths": ON[layout]}
        checkpoint = keepstep.open(home / "root/job")
        assert checkpoint.step == 2
        for name in checkpoint.names():
            held = checkpoint.tensor(name)[...]
            assert held.tobytes() == expected(name, held.shape, held.dtype, 2).tobytes(), name
        assert layout == "pool" or any(gpus.mapped(trainer).values())
        trainer.close()
        gpus.await_unmapped(trainer)
        trainer.finish()


@pytest.mark.parametrize("layout", ["many", "segment", "mixed", "two_gpus"])
def test_a_daemon_that_maps_nothing_gets_it_through_the_window(home: Path, layout: str) -> None:
    with Gpus(home, "off") as gpus, gpus.trainer("round_trip", layout) as trainer:
        told = trainer.heard()
        assert told["differing"] == {"1": [], "2": []}
        assert re.fullmatch(r"host by window; \d+ allocations? by window", told["paths"])
        trainer.close()
        trainer.finish()


def test_where_handles_do_not_cross_the_client_copies(home: Path) -> None:
    with Gpus(home, "on", off=["ipc", "posix_fd"]) as gpus, gpus.trainer("round_trip", "one_each") as trainer:
        assert trainer.heard() == {"differing": {"1": [], "2": []}, "paths": "host by window; 4 allocations by window"}
        trainer.close()
        trainer.finish()


@pytest.mark.parametrize("layout", ["segment", "mixed"])
def test_a_daemon_that_was_killed_is_handed_everything_again(home: Path, layout: str) -> None:
    with Gpus(home, "on") as gpus, gpus.trainer("restarted", layout) as trainer:
        assert trainer.heard() == "saved"
        gpus.daemon.kill()
        gpus.daemon.start()
        trainer.go_on()
        assert trainer.heard() == {"differing": {"False": [], "True": []}, "paths": ON[layout]}
        trainer.close()
        gpus.await_unmapped(trainer)
        trainer.finish()


# An open mapping would keep a dead process's memory.
@pytest.mark.parametrize("layout", ["one_each", "segment"])
def test_a_killed_trainers_memory_is_let_go(home: Path, layout: str) -> None:
    with Gpus(home, "on") as gpus, gpus.trainer("round_trip", layout) as trainer:
        trainer.heard()
        assert any(gpus.mapped(trainer).values())
        trainer.kill()
        gpus.await_unmapped(trainer, seconds=5.0)  # docs/gpu.md


# The stream is still to write when save is called, and the program writes again as soon as the gate opens.
@pytest.mark.parametrize(("layout", "use"), [("one_each", "on"), ("segment", "on"), ("pool", "on"), ("segment", "off")])
def test_a_save_is_what_its_stream_holds_at_the_call(home: Path, layout: str, use: str) -> None:
    with Gpus(home, use) as gpus, gpus.trainer("ordered", layout) as trainer:
        told = trainer.heard()
        assert told["wrong"] == [] and not told["waited"], told
        trainer.close()
        trainer.finish()


# The program runs ahead of the GPU, over several saves: none may wait for what only it lets go on.
@pytest.mark.parametrize("use", ["on", "off"])
def test_saves_and_updates_by_turns_in_stream_order(home: Path, use: str) -> None:
    with Gpus(home, use) as gpus, gpus.trainer("queued", "pool") as trainer:
        assert trainer.heard() == {"held": [[step] for step in range(1, 8)]}
        trainer.close()
        trainer.finish()


# The program may let go of what is registered: until it is taken back its memory stays what it is.
def test_what_is_registered_is_not_freed_under_a_save(home: Path) -> None:
    with Gpus(home, "on") as gpus, gpus.trainer("emptied", "pool") as trainer:
        assert trainer.heard() == {"kept": True, "freed": True, "differing": []}
        trainer.close()
        gpus.await_unmapped(trainer)
        trainer.finish()


# Of GPU memory that the daemon maps it takes the samples, of the rest the client does.
@pytest.mark.parametrize("layout", ["one_each", "segment", "pool"])
def test_an_update_that_ignores_the_gate_fails_its_save(home: Path, layout: str) -> None:
    with Gpus(home, "on", d2h_gbps=0.1) as gpus, gpus.trainer("ungated", layout) as trainer:
        code, reason, text = trainer.heard()["failure"]
        assert (code, reason) == ("ABORTED", "UPDATED_DURING_SAVE") and "before_update" in text
        assert keepstep.open(gpus.home / "root/job").step == 3
        trainer.close()
        trainer.finish()


def test_a_freed_and_reused_address_is_never_taken_for_the_old_tensor(home: Path) -> None:
    with Gpus(home, "on") as gpus, gpus.trainer("reused", "pool") as trainer:
        told = trainer.heard()
        assert told["differing"] == []
        assert told["addresses"] < 6, "the fake driver gives a freed address to the next that asks"
        assert gpus.mapped(trainer)["imports"] == 1, "what is registered now, and nothing that was taken back"
        trainer.close()
        gpus.await_unmapped(trainer)
        trainer.finish()
