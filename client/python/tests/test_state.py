"""What the caller says it holds, down to the structs that the library gets."""

from __future__ import annotations

import mmap
import random

import numpy as np
import numpy.random  # imported lazily otherwise, and then there is no state to keep
import pytest

import keepstep
from keepstep import _ffi, _generators, _state, extras
from keepstep._registration import marshal, resolve
from keepstep.shards import address


def shards(**state: object) -> dict[str, object]:
    specs = list(_state.split(state).specs.values())
    filled, keep = marshal(specs)
    result = {filled[index].fqn.decode(): filled[index] for index in range(len(specs))}
    result["keep"] = (filled, keep, specs)
    return result


def values(pointer: object, count: int) -> list[int]:
    return [pointer[index] for index in range(count)]  # type: ignore[index]


def test_addresses_are_those_of_numpys_interface() -> None:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    for array in (whole, whole[1:], whole[:, 2:], whole[::-1], whole.T, whole[2, 3:4], np.zeros(()), np.zeros((0, 3)),
                  np.ma.masked_array(whole), np.frombuffer(b"bytes", np.uint8)):
        assert address(array) == array.__array_interface__["data"][0]


def test_a_column_view_shares_its_allocations_buffer() -> None:
    whole = np.zeros((6, 8), dtype=np.float32)
    told = shards(model={"w": keepstep.piece(whole[:, 2:5], (6, 12), np.s_[:, 3:6])})["w"]
    assert (told.where, told.box_count, told.data_bytes) == (_ffi.BOXES, 1, whole.nbytes)
    assert told.data == whole.ctypes.data
    box = told.boxes[0]
    assert values(box.origin, 2) == [0, 3] and values(box.shape, 2) == [6, 3]
    assert box.offset_bytes == 8 and values(box.strides_bytes, 2) == [32, 4]


def test_query_key_value_in_one_allocation_are_one_buffer() -> None:
    fused = np.zeros((3, 4, 8), dtype=np.float32)
    told = shards(model={name: keepstep.piece(fused[k], (16, 8), np.s_[0:4]) for k, name in enumerate("qkv")})
    assert {told[name].data for name in "qkv"} == {fused.ctypes.data}
    assert [told[name].boxes[0].offset_bytes for name in "qkv"] == [0, 128, 256]


def test_pieces_are_boxes_of_one_tensor() -> None:
    fused = np.zeros((4, 8), dtype=np.float32)
    told = shards(model={"gate_up": keepstep.pieces((8, 8), [(np.s_[2:4], fused[:2]), (np.s_[6:8], fused[2:])])})
    assert told["gate_up"].box_count == 2
    assert [box.offset_bytes for box in told["gate_up"].boxes[:2]] == [0, 64]
    assert [values(box.origin, 2) for box in told["gate_up"].boxes[:2]] == [[2, 0], [6, 0]]
    with pytest.raises(ValueError, match="different allocations"):
        keepstep.pieces((8, 8), [(np.s_[0:2], fused[:2]), (np.s_[2:4], fused[2:].copy())])


def test_flat_ranges_placements_and_replicas() -> None:
    moment = np.zeros(10, dtype=np.float32)
    told = shards(
        optimizer={"m": keepstep.flat(moment, (6, 8), 20, of=np.s_[0:6, 4:8])},
        model={
            "b": keepstep.replica(np.zeros(3), range(4)),
            "p": keepstep.placed(np.zeros((2, 8)), (4, 8), [keepstep.Replicate(), keepstep.Shard(0)]),
        },
    )
    flat, replica, placed = told["optimizer.m"], told["b"], told["p"]
    assert (flat.where, flat.flat_begin, flat.flat_end, flat.component) == (_ffi.FLAT, 20, 30, 2)
    assert values(flat.flat_origin, 2) == [0, 4] and values(flat.flat_shape, 2) == [6, 4]
    assert values(replica.replica_ranks, replica.replica_count) == [0, 1, 2, 3]
    assert (placed.where, [(p.kind, p.tensor_dim) for p in placed.placements[:2]]) == (_ffi.PLACED, [(0, 0), (1, 0)])


def test_buffers_and_named_dtypes() -> None:
    with mmap.mmap(-1, 4096) as memory:
        told = shards(model={"raw": memory, "bytes": bytearray(5), "half": np.zeros(4, np.uint16)})
        assert told["raw"].dtype == b"U8" and told["raw"].data_bytes == 4096
        assert told["bytes"].global_shape[0] == 5
        told = shards(model={"half": keepstep.Sharded(np.zeros(4, np.uint16), (4,), dtype="BF16")})
        assert told["half"].dtype == b"BF16"
        del told


@pytest.mark.parametrize("plain", [3, 0.5, "text", b"frozen", np.float32(1), None])
def test_plain_values_are_refused_with_what_to_do(plain: object) -> None:
    with pytest.raises(TypeError, match=r"optimizer\.step is a plain .*pair of callables"):
        _state.split({"optimizer": {"step": plain}})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(3, dtype=object), "cannot be stored"),
        (np.zeros(3, dtype=">f4"), "cannot be stored"),
        (np.zeros(4)[::-1], "repeat or reverse"),
        (np.broadcast_to(np.zeros(1), (4,)), "repeat or reverse"),
        (keepstep.Sharded(np.zeros(3), (6,)), "say which part"),
        (keepstep.Sharded(np.zeros(3), (6,), flat=(0, 2)), "has 2 elements"),
        (keepstep.Sharded(np.zeros(3), (3,), dtype="BF16"), "differ in size"),
    ],
)
def test_what_cannot_be_stored_names_the_tensor(value: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^w: .*{message}"):
        resolve("w", value, "model")


def test_names_cannot_collide() -> None:
    with pytest.raises(ValueError, match=r"a\.b is registered twice"):
        _state.split({"model": {"a.b": np.zeros(1), "a": {"b": np.zeros(1)}}})
    told = _state.split({"actor": {"w": np.zeros(1)}, "model": {"w": np.zeros(1)}, "sched": (dict, print)})
    assert list(told.specs) == ["actor.w", "w"] and list(told.extras) == ["sched"]


def test_extras_keep_every_kind_of_value() -> None:
    value = {
        "list": [1, 2.5, None, True, "é"], "tuple": (1, (2,)), "bytes": b"\0\xff", 3: {"$bytes": "not ours"},
        "array": np.arange(6, dtype=np.int16).reshape(2, 3), "scalar": np.float32(1.5), "big": 1 << 127,
    }  # fmt: skip
    back = extras.decode(extras.encode(value))
    np.testing.assert_array_equal(back.pop("array"), value.pop("array"))
    assert back == value and isinstance(back["tuple"], tuple) and back["scalar"].dtype == np.float32
    with pytest.raises(TypeError, match="object cannot be saved"):
        extras.encode({"x": object()})


def test_random_generators_go_on_where_they_were() -> None:
    stored = extras.encode(_generators.rng_state())
    drawn = random.random(), np.random.random()
    _generators.set_rng_state(extras.decode(stored))
    assert (random.random(), np.random.random()) == drawn


# The worked example of client/extras.h.
def test_the_record_of_extras() -> None:
    example = bytes.fromhex(
        "0700000000000000 01000000 03000000 726e67 02000000 00000000 00 01000000 0100000000000000 ab"
    )
    assert extras.parse_record(example) == (7, [extras.StoredExtra("rng", 2, (), False, (b"\xab",))])
    for size in range(len(example)):
        with pytest.raises((ValueError, Exception)):
            extras.parse_record(example[:size])


def test_errors_are_matched_by_class() -> None:
    from keepstep.errors import from_status

    assert isinstance(from_status(14, "NO_DAEMON", "start it"), ConnectionError)
    missing = from_status(5, "CHECKPOINT_NOT_FOUND", "there is none")
    assert isinstance(missing, FileNotFoundError) and str(missing) == "there is none"
    assert isinstance(from_status(5, "MISSING_TENSORS", ""), keepstep.MissingTensors)
    assert isinstance(from_status(9, "SHAPE_MISMATCH", ""), keepstep.ShapeMismatch)
    assert isinstance(from_status(15, "", ""), keepstep.DataLoss)
