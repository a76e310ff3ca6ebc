"""One process without torch.distributed: directories, odd tensors, the Metadata, and what a Checkpointer saved."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keepstep
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from keepstep.errors import CheckpointNotFound, SaveFailed
from keepstep.torch.dcp import KeepstepAsyncStager, KeepstepStorageReader, KeepstepStorageWriter, record
from keepstep.torch.dcp.export_directory import export_directory
from keepstep.torch.dcp.stager import Staging
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from tests.harness.daemon import Daemon

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is")
Storages = list[tuple[Callable[..., Any], Callable[..., Any], Path]]


@pytest.fixture
def storages(daemon: Daemon, home: Path) -> Storages:
    """Writer, reader and directory: of Keepstep, and of DCP's own storage, which says what is right."""

    def ours(path: Any, **options: Any) -> KeepstepStorageWriter:
        return KeepstepStorageWriter(path, daemon=daemon.address, **options)

    def our_reader(path: Any) -> KeepstepStorageReader:
        return KeepstepStorageReader(path, daemon=daemon.address)

    return [(ours, our_reader, home / "ours"), (dcp.FileSystemWriter, dcp.FileSystemReader, home / "theirs")]


def failure(call: Callable[[], object]) -> tuple[type, str]:
    with pytest.raises(CheckpointException) as raised:
        call()
    ((cause, _),) = raised.value.failures.values()
    return type(cause), str(cause)


def test_overwrite_and_its_refusal(storages: Storages) -> None:
    for write, read, path in storages:
        dcp.save({"a": torch.tensor([1])}, storage_writer=write(path))
        kind, text = failure(
            lambda w=write, p=path: dcp.save({"a": torch.ones(1)}, storage_writer=w(p, overwrite=False))
        )
        assert (kind, text) == (RuntimeError, "Checkpoint already exists and self.overwrite=False.")
        with pytest.warns(UserWarning, match="Detected an existing checkpoint in"):
            dcp.save({"a": torch.tensor([2]), "b": 3}, storage_writer=write(path))
        loaded = {"a": torch.tensor([0]), "b": 0}
        dcp.load(loaded, storage_reader=read(path))
        assert (loaded["a"].item(), loaded["b"]) == (2, 3)


def test_the_overwritten_attempt_is_deleted(storages: Storages, daemon: Daemon) -> None:
    write, _, path = storages[0]
    for value in range(3):
        dcp.save({"a": torch.tensor([value])}, storage_writer=write(path))
    assert daemon.command("gc", str(path), "--yes").returncode == 0  # comes after the deletion under way
    assert len(list(path.glob("*/*/DECISION"))) == 1
    assert keepstep.open(path).tensor("a")[:].tolist() == [2]


def test_checkpoint_id_takes_the_place_of_the_path(storages: Storages) -> None:
    for write, read, path in storages:
        target, source = write(path / "unused"), read(path / "unused")
        for number in (1, 2):
            dcp.save({"n": number}, storage_writer=target, checkpoint_id=path / str(number))
            assert target.checkpoint_id == path / str(number)
        for number in (1, 2):
            loaded = {"n": 0}
            dcp.load(loaded, storage_reader=source, checkpoint_id=str(path / str(number)))
            assert loaded == {"n": number}
        assert not (path / "unused").exists()


@pytest.mark.parametrize("identity", [Path("/nowhere/at/all"), "/tmp/x", "relative", "s3://bucket/key", "/proc/x/y"])
def test_the_same_checkpoint_ids_are_valid(identity: Any) -> None:
    assert KeepstepStorageWriter.validate_checkpoint_id(identity) == dcp.FileSystemWriter.validate_checkpoint_id(
        identity
    )
    assert KeepstepStorageReader.validate_checkpoint_id(identity) == dcp.FileSystemReader.validate_checkpoint_id(
        identity
    )


def test_empty_states_and_nested_ones_without_flattening(storages: Storages) -> None:
    found = []
    for write, read, path in storages:
        empty: dict[str, Any] = {}
        dcp.save(empty, storage_writer=write(path / "empty"))
        dcp.load(empty, storage_reader=read(path / "empty"))
        state = {"t": torch.arange(3), "d": {"deep": [1, torch.ones(2)]}}
        metadata = dcp.save(
            state, storage_writer=write(path / "nested"), planner=DefaultSavePlanner(flatten_state_dict=False)
        )
        loaded = {"t": torch.zeros(3, dtype=torch.int64), "d": {}}
        dcp.load(loaded, storage_reader=read(path / "nested"), planner=DefaultLoadPlanner(flatten_state_dict=False))
        found.append((empty, str(loaded), sorted(metadata.state_dict_metadata), metadata.planner_data))
    assert found[0] == found[1]


def test_targets_of_any_memory_are_filled(storages: Storages) -> None:
    found = []
    for write, read, path in storages:
        stored = {
            "a": torch.arange(24.0).reshape(4, 6),
            "b": torch.arange(24.0).reshape(4, 6),
            "c": torch.arange(6) + 1j,
        }
        stored |= {
            "t": torch.arange(12.0).reshape(3, 4).t(),
            "e": torch.ones(1).expand(4),
            "half": torch.randn(5).half(),
        }
        stored["half"][:] = torch.arange(5) / 3
        stored["conj"] = torch.tensor([1 + 2j]).conj()
        dcp.save(stored, storage_writer=write(path))
        targets: dict[str, Any] = {
            "a": torch.zeros(6, 4).t(),  # columns lie together
            "b": torch.zeros(4, 12, dtype=torch.float64)[:, ::2],  # every second element, of another dtype
            "c": torch.zeros(6, dtype=torch.complex64),
            "t": torch.zeros(4, 3),
            "e": torch.zeros(4),
            "half": torch.zeros(5, dtype=torch.bfloat16),
            "conj": torch.zeros(1, dtype=torch.complex64),
        }
        dcp.load(targets, storage_reader=read(path))
        found.append({name: tensor.tolist() for name, tensor in targets.items()})
    assert found[0] == found[1]
    assert found[0]["a"][1] == [6, 7, 8, 9, 10, 11]


def test_every_dtype_comes_back_by_its_bits(storages: Storages) -> None:
    write, read, path = storages[0]
    names = ["float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128", "bool"]
    names += ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
    names += [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    raw = torch.arange(64, dtype=torch.uint8) % 2
    state = {name: raw.view(getattr(torch, name)) for name in names}
    metadata = dcp.save(state, storage_writer=write(path))
    loaded = {name: torch.zeros(64, dtype=torch.uint8).view(getattr(torch, name)) for name in names}
    dcp.load(loaded, storage_reader=read(path))
    assert all(torch.equal(tensor.view(torch.uint8), raw) for tensor in loaded.values())
    read_back = read(path).read_metadata().state_dict_metadata
    assert read_back == metadata.state_dict_metadata
    assert read_back["complex32"].properties.dtype is torch.complex32


def test_what_cannot_be_stored_says_so(storages: Storages) -> None:
    write, _, path = storages[0]
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    kind, text = failure(lambda: dcp.save({"q": quantized}, storage_writer=write(path)))
    assert kind is TypeError and text.startswith("q: tensors of torch.qint8")
    assert not list(path.glob("*/*/DECISION"))


def test_other_directories_are_refused(storages: Storages, daemon: Daemon, home: Path) -> None:
    (write, read, _), (theirs, _, their_path) = storages
    dcp.save({"a": 1}, storage_writer=theirs(their_path))
    kind, text = failure(lambda: dcp.save({"a": 1}, storage_writer=write(their_path)))
    assert kind is RuntimeError and "DCP's own" in text
    with keepstep.Checkpointer(home / "job", daemon=daemon.address) as checkpointer:
        checkpointer.register(model={"w": np.ones(3)})
        checkpointer.save(5).result()
    kind, text = failure(lambda: dcp.save({"a": 1}, storage_writer=write(home / "job")))
    assert kind is RuntimeError and "holds step 5" in text
    kind, text = failure(lambda: dcp.load({"a": 1}, storage_reader=read(home / "empty")))
    assert kind is AssertionError and "metadata is None" in text
    with pytest.raises(CheckpointNotFound):
        read(home / "empty").read_metadata()


def test_a_checkpointers_job_is_loaded_by_its_names(daemon: Daemon, home: Path) -> None:
    weights, epoch = {"layer": {"w": np.arange(12.0).reshape(3, 4)}}, {"seen": [1, 2], "best": 0.5}
    with keepstep.Checkpointer(home / "job", daemon=daemon.address) as checkpointer:
        checkpointer.register(model=weights, progress=lambda: epoch)
        checkpointer.save(5).result()
        epoch["best"] = 0.25
        weights["layer"]["w"] += 1
        checkpointer.save(6).result()
    for step, best in ((5, 0.5), (6, 0.25), (None, 0.25)):
        state = {"layer.w": torch.zeros(3, 4, dtype=torch.float64), "progress": {"seen": [], "best": 0}}
        dcp.load(state, storage_reader=KeepstepStorageReader(home / "job", step=step, daemon=daemon.address))
        assert torch.equal(state["layer.w"], torch.arange(12.0).reshape(3, 4).double() + (step != 5))
        assert state["progress"] == {"seen": [1, 2], "best": best}


def test_modules_and_optimizers_of_a_checkpointer_are_loaded_and_exported(daemon: Daemon, home: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    model(torch.randn(5, 3, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    with keepstep.Checkpointer(home / "job", daemon=daemon.address) as checkpointer:
        checkpointer.register(model=model, optimizer=optimizer)
        checkpointer.save(1).result()
    export_directory(str(home / "job"), str(home / "out"))
    names = KeepstepStorageReader(home / "job", daemon=daemon.address).read_metadata().state_dict_metadata
    moments = {name: torch.zeros(4, 3, dtype=torch.bfloat16) for name in names if name.endswith("0.weight.exp_avg")}
    assert len(moments) == 1
    for reader in (KeepstepStorageReader(home / "job", daemon=daemon.address), dcp.FileSystemReader(home / "out")):
        state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
        dcp.load({**state, **moments}, storage_reader=reader)
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
        assert torch.equal(*moments.values(), optimizer.state[model[0].weight]["exp_avg"])
        moments = {name: torch.zeros_like(value) for name, value in moments.items()}


def test_a_damaged_block_is_told(storages: Storages, daemon: Daemon) -> None:
    write, read, path = storages[0]
    dcp.save({"a": torch.arange(5000)}, storage_writer=write(path))
    (blob,) = path.glob("*/*/model-*.safetensors")
    data = bytearray(blob.read_bytes())
    data[-9] ^= 1
    daemon.stop()  # what it has in memory is not damaged
    blob.write_bytes(data)
    daemon.start()
    kind, text = failure(lambda: dcp.load({"a": torch.zeros(5000, dtype=torch.int64)}, storage_reader=read(path)))
    assert kind is keepstep.DataLoss, text


def test_without_a_daemon_nothing_is_left(home: Path) -> None:
    target = KeepstepStorageWriter(home / "job", daemon=f"unix://{home}/nobody.sock")
    kind, _ = failure(lambda: dcp.save({"a": 1}, storage_writer=target))
    assert kind is keepstep.DaemonUnavailable
    assert not list((home / "job").iterdir())


def test_async_save_with_and_without_the_stager(storages: Storages) -> None:
    write, read, path = storages[0]
    state = {"w": torch.arange(1000.0), "n": 1}
    response: Any = dcp.async_save(state, storage_writer=write(path / "1"), async_stager=KeepstepAsyncStager())
    response.staging_completion.result(60)
    state["w"].zero_()
    assert isinstance(response.upload_completion.result(60), Metadata)
    plain: Any = dcp.async_save({"w": torch.ones(2)}, storage_writer=write(path / "2"))
    assert isinstance(plain.result(60), Metadata)
    loaded = {"w": torch.zeros(1000), "n": 0}
    dcp.load(loaded, storage_reader=read(path / "1"))
    assert torch.equal(loaded["w"], torch.arange(1000.0)) and loaded["n"] == 1


def test_a_staging_gives_its_state_before_it_is_done() -> None:
    staging = Staging({"a": 1})
    assert not staging.done()
    assert staging.result() == {"a": 1}
    staging.copied()
    staging.copied()
    assert staging.done() and staging.result() == {"a": 1}


class _OnGpu(torch.Tensor):
    """Of a CUDA device by name, and without memory."""

    @staticmethod
    def __new__(cls, device: str) -> _OnGpu:
        tensor: _OnGpu = torch.Tensor._make_wrapper_subclass(cls, (2,), device=device)  # type: ignore[attr-defined]
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function: Any, *_: Any) -> Any:
        raise AssertionError(f"{function} reads a tensor that is only to be named")


def test_what_is_queued_when_stage_is_called_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The saving thread has current streams of its own: they wait for the program's."""
    done: list[tuple[str, str, bool]] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = str(device)

        def record_event(self) -> str:
            done.append(("record", self.device, threading.current_thread() is threading.main_thread()))
            return self.device

        def wait_event(self, event: str) -> None:
            assert event == self.device
            done.append(("wait", self.device, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    state = {"w": _OnGpu("cuda:1"), "more": {"m": [_OnGpu("cuda:0"), _OnGpu("cuda:1")]}, "n": torch.zeros(1)}
    staging = KeepstepAsyncStager().stage(state)
    saver = threading.Thread(target=staging.result)
    saver.start()
    saver.join()
    devices = ("cuda:0", "cuda:1")
    assert done == [("record", device, True) for device in devices] + [("wait", device, False) for device in devices]


def test_the_metadata_comes_back_as_it_was() -> None:
    properties = TensorProperties(
        torch.bfloat16, requires_grad=True, memory_format=torch.channels_last, pin_memory=True
    )
    chunks = [ChunkStorageMetadata(torch.Size([at, 0]), torch.Size([2, 3])) for at in (0, 2)]
    metadata = Metadata(
        {"w": TensorStorageMetadata(properties, torch.Size([4, 3]), chunks), "b": BytesStorageMetadata()},
        planner_data={"w": ("model", 0, "w"), "b": ("b",)},
        storage_data={
            MetadataIndex("w", [0, 0]): record.StoredChunk("w", (0, 0)),
            MetadataIndex("w", [2, 0]): record.StoredChunk("w@[2,0]", (0, 0)),
            MetadataIndex("b"): record.StoredBytes("keepstep.dcp.bytes.1", 3, 9),
        },
        storage_meta=StorageMeta("/ckpt/1", "a save", modules=["m"]),
        version="1.0.0",
    )
    assert record.decode(record.encode(metadata)) == metadata
    for other in (None, {"w": ["not", "a", "path"]}, {1: ("w",)}, {"w": (1.5, b"x")}):
        assert record.decode(record.encode(Metadata({}, planner_data=other))).planner_data == other
    with pytest.raises(TypeError, match="planner_data"):
        record.encode(Metadata({}, planner_data=object()))
    for damaged in (b"", b"junk", record.encode(metadata)[:-3]):
        with pytest.raises(keepstep.DataLoss):
            record.decode(damaged)


def test_errors_travel_from_rank_to_rank() -> None:
    error = SaveFailed("step 3 failed", step=3, code="ABORTED", reason="TRAINER_DIED", rank=2, stage="copy")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is SaveFailed and str(again) == str(error) and again.__dict__ == error.__dict__
    unavailable = pickle.loads(pickle.dumps(keepstep.DaemonUnavailable("nobody", code="UNAVAILABLE")))
    assert isinstance(unavailable, ConnectionError) and unavailable.code == "UNAVAILABLE"


warnings.filterwarnings("ignore", category=UserWarning, module="torch")
