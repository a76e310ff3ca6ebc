"""State that moves, changes or hides between two saves, against the real daemon: what is stored is what was there."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keepstep
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.harness.daemon import Daemon


class Opener:
    """Opens Checkpointers of one rank on a directory of the test's own."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.daemon, self.directory = daemon, directory
        self.opened: list[keepstep.Checkpointer] = []

    def __call__(self, **options: Any) -> keepstep.Checkpointer:
        merged = {"rank": 0, "world_size": 1, "daemon": self.daemon.address, **options}
        self.opened.append(keepstep.Checkpointer(self.directory, **merged))
        return self.opened[-1]

    def stored(self, name: str, step: int | None = None) -> np.ndarray[Any, Any]:
        return keepstep.open(self.directory, step).tensor(name).numpy()


@pytest.fixture
def opener(shared_daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Opener]:
    opener = Opener(shared_daemon, shared_daemon.root / f"{request.node.originalname}-{id(request)}")
    yield opener
    for checkpointer in opener.opened:
        checkpointer.close()


class Net(nn.Module):
    """Tied weights, batch norm, extra state."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.emb = nn.Embedding(11, 6, dtype=dtype)
        self.bn = nn.BatchNorm1d(6, dtype=dtype)
        self.head = nn.Linear(6, 11, bias=False, dtype=dtype)
        self.head.weight = self.emb.weight
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(self.bn(self.emb(x)))

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    net(torch.randint(0, 11, (5,))).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def made(kind: Any = torch.optim.AdamW, **options: Any) -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(1)
    net = Net()
    return net, kind(net.parameters(), lr=0.1, **options)


def state_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy({"net": net.state_dict(), "optimizer": optimizer.state_dict()})


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_everything_comes_back_and_random_numbers_go_on(opener: Opener) -> None:
    net, optimizer = made()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=20)
    milestones = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD(net.parameters()), [2, 2, 5])
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    ema = AveragedModel(net)
    state = {"model": net, "optimizer": optimizer, "scheduler": scheduler, "milestones": milestones,
             "scaler": scaler, "ema": ema}
    with opener() as ck:
        ck.register(**state)
        assert ck.load() is None
        for _ in range(3):
            step(net, optimizer)
            scheduler.step()
            ema.update_parameters(net)
        ck.save(3).result()
        wanted = state_of(net, optimizer) | {"ema": copy.deepcopy(ema.state_dict()), "calls": net.calls,
                                             "scheduler": scheduler.state_dict(), "scaler": scaler.state_dict()}
        numbers = torch.rand(4)
    other, fresh = made()
    restored = {"model": other, "optimizer": fresh, "ema": AveragedModel(other),
                "scheduler": torch.optim.lr_scheduler.OneCycleLR(fresh, 0.3, total_steps=20),
                "milestones": torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD(other.parameters()), [2, 2, 5]),
                "scaler": torch.amp.GradScaler("cpu", init_scale=2.0)}
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    with opener() as ck:
        ck.register(**restored)
        assert ck.load() == 3
        assert torch.equal(torch.rand(4), numbers)
    found = state_of(other, fresh) | {"ema": restored["ema"].state_dict(), "calls": other.calls,
                                      "scheduler": restored["scheduler"].state_dict(),
                                      "scaler": restored["scaler"].state_dict()}
    assert same(found, wanted)
    assert restored["milestones"].milestones == milestones.milestones
    names = keepstep.open(opener.directory).names()
    assert {"emb.weight", "head.weight", "bn.running_mean", "ema.n_averaged", "optimizer.emb.weight.step"} <= set(names)
    assert "optimizer.head.weight.step" not in names
    written = sum(file.stat().st_size for file in opener.directory.rglob("*.safetensors"))
    assert written < 64 << 10  # and the tied weight once


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.bool,
                                   torch.complex64, torch.uint16], ids=str)
def test_tensors_of_every_kind_in_dicts_and_lists(opener: Opener, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    values = torch.randn(6, 5).to(dtype) if dtype is not torch.uint16 else torch.arange(30).reshape(6, 5).to(dtype)
    state = {"a": values, "b": [values.t().contiguous().t(), values[2, 3]], "none": values[:0]}
    wanted = copy.deepcopy(state)
    with opener() as ck:
        ck.register(model=state)
        ck.save(1).result()
        for tensor in (state["a"], *state["b"]):
            tensor.copy_(torch.zeros_like(tensor))
        assert ck.load() == 1
    pairs = ((state["a"], wanted["a"]), (state["b"][0], wanted["b"][0]), (state["b"][1], wanted["b"][1]))
    raw = [[tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8) for tensor in pair]
           for pair in pairs]
    assert all(torch.equal(one, other) for one, other in raw)


def test_memory_that_was_replaced_is_found_at_the_next_save(opener: Opener) -> None:
    """Each of these leaves the registered memory alive, holding what was."""
    net, optimizer = made(torch.optim.SGD, momentum=0.9)
    with opener() as ck:
        ck.register(model=net, optimizer=optimizer)

        def saved(number: int, name: str, tensor: torch.Tensor) -> None:
            ck.save(number).result()
            assert np.array_equal(opener.stored(name, number), tensor.detach().numpy()), name

        step(net, optimizer)  # makes the momentum
        saved(1, "optimizer.emb.weight.momentum_buffer", optimizer.state[net.emb.weight]["momentum_buffer"])
        net.emb.weight.data = torch.randn(11, 6)
        saved(2, "emb.weight", net.emb.weight)
        net.bn.weight = nn.Parameter(torch.randn(6))
        optimizer.param_groups[0]["params"] = list(net.parameters())
        saved(3, "bn.weight", net.bn.weight)
        net.bn.running_mean = torch.randn(6)
        saved(4, "bn.running_mean", net.bn.running_mean)
        other, filled = made(torch.optim.SGD, momentum=0.9)
        step(other, filled)
        optimizer.load_state_dict(filled.state_dict())
        saved(5, "optimizer.emb.weight.momentum_buffer", optimizer.state[net.emb.weight]["momentum_buffer"])
        optimizer.state[net.emb.weight]["momentum_buffer"] = torch.randn(11, 6)
        saved(6, "optimizer.emb.weight.momentum_buffer", optimizer.state[net.emb.weight]["momentum_buffer"])
        net.emb.weight.data = net.emb.weight.data.t().contiguous().t()
        saved(7, "emb.weight", net.emb.weight)
        net.add_module("new", nn.Linear(2, 2))
        saved(8, "new.weight", net.new.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("index", [0, 255, 256, 599])
def test_the_memory_of_any_of_many_tensors_is_watched(opener: Opener, index: int) -> None:
    """They are looked at a part at a time."""
    many = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(600)])
    with opener() as ck:
        ck.register(model=many)
        ck.save(1).result()
        many[index].data = torch.ones(2)
        ck.save(2).result()
        assert (opener.stored(str(index)) == 1).all()


def test_an_option_is_saved_as_it_is_now(opener: Opener) -> None:
    """Whatever of the optimizer's options changed, in place or by another value; and what did not, again."""
    rate = torch.tensor(0.5)
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [net.weight], "lr": 0.25}, {"params": [net.bias], "lr": rate}])
    first, second = optimizer.param_groups

    def saved(number: int) -> list[tuple[Any, Any]]:
        ck.save(number).result()
        options = [group["options"] for group in keepstep.open(opener.directory).extra("optimizer")["groups"]]
        assert repr(options[0]["momentum"]) == repr(first["momentum"])
        return [(one["lr"], one["weight_decay"]) for one in options]

    with opener() as ck:
        ck.register(model=net, optimizer=optimizer)
        assert saved(1) == [(0.25, 0), (0.5, 0)]
        assert saved(2) == [(0.25, 0), (0.5, 0)]
        rate.fill_(0.125)
        assert saved(3) == [(0.25, 0), (0.125, 0)]
        second["lr"] = 0.5  # from here on nothing is a tensor
        assert saved(4) == [(0.25, 0), (0.5, 0)]
        second["weight_decay"] = 0.0625
        assert saved(5) == [(0.25, 0), (0.5, 0.0625)]
        for number, momentum in enumerate((1, 1.0, True, 0.0, -0.0), 6):  # equal, and not the same
            first["momentum"] = momentum
            saved(number)


def test_writes_that_pass_no_gate_never_become_a_mixed_checkpoint(opener: Opener) -> None:
    """`.data` writes are seen by no hook and no version counter: the samples fail the save, or it held still."""
    big = nn.Linear(2048, 2048, bias=False)
    optimizer = torch.optim.SGD(big.parameters())
    with opener(max_failures=10**6) as ck:
        ck.register(model=big, optimizer=optimizer)
        torn = 0
        for number in range(1, 13):
            big.weight.data.fill_(number)
            optimizer.step()  # the hook is heard, so the save overlaps
            handle = ck.save(number)
            big.weight.data.add_(100)
            failure = handle.exception(60)
            if failure is not None:
                assert failure.reason == "UPDATED_DURING_SAVE" and "weight" in str(failure), failure
                torn += 1
            else:
                assert set(np.unique(opener.stored("weight", number)).tolist()) == {float(number)}
        assert torn > 0


def test_optimizer_state_that_a_checkpoint_lacks_is_dropped_and_what_it_has_is_made(opener: Opener) -> None:
    net, optimizer = made()
    with opener() as ck:
        ck.register(model=net, optimizer=optimizer)
        ck.save(0).result()  # before any step: no state
        first = state_of(net, optimizer)
        step(net, optimizer)
        ck.save(1).result()
        stepped = state_of(net, optimizer)
    other, fresh = made(weight_decay=0.5)
    other.emb.weight.grad = torch.ones(11, 6)
    with opener() as ck:
        ck.register(model=other, optimizer=fresh)
        assert ck.load(1) == 1
        assert same(state_of(other, fresh), stepped)
        assert torch.equal(other.emb.weight.grad, torch.ones(11, 6))  # a load leaves gradients alone
        assert ck.load(0) == 0
        assert same(state_of(other, fresh), first)


class Counting(torch.optim.Optimizer):
    """Counts its steps in a number, as optimizers used to, and keeps a tensor of another name."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["steps"] = state.get("steps", 0) + 1
                state.setdefault("sum", torch.zeros_like(parameter))
                if parameter.grad is not None:
                    state["sum"] += parameter.grad
                    parameter -= group["lr"] * state["sum"]


def test_numbers_in_optimizer_state_travel_without_registering_again(
    opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "keepstep")
    net = Net()
    optimizer = Counting(net.parameters())
    with opener() as ck:
        ck.register(model=net, optimizer=optimizer)
        for number in range(1, 5):
            step(net, optimizer)
            ck.save(number).result()
        assert sum("registered again" in message for message in caplog.messages) == 1  # when the state came to be
    other = Net()
    fresh = Counting(other.parameters())
    with opener() as ck:
        ck.register(model=other, optimizer=fresh)
        assert ck.load() == 4
        assert {state["steps"] for state in fresh.state.values()} == {4}
        assert same(state_of(other, fresh), state_of(net, optimizer))
        other.emb.weight.data = torch.zeros(11, 6)
        fresh.state[other.emb.weight]["sum"] = torch.ones(11, 6)
        ck.save(5).result()
    assert (opener.stored("optimizer.emb.weight.sum") == 1).all()


def test_an_unused_parameter_needs_no_state(opener: Opener) -> None:
    class Partly(Net):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)

    net = Partly()
    optimizer = torch.optim.AdamW(net.parameters())
    with opener() as ck:
        ck.register(model=net, optimizer=optimizer)
        step(net, optimizer)
        ck.save(1).result()
    other = Partly()
    fresh = torch.optim.AdamW(other.parameters())
    with opener() as ck:
        ck.register(model=other, optimizer=fresh)
        assert ck.load() == 1
    assert same(state_of(other, fresh), state_of(net, optimizer))


def test_parts_by_hand_are_tensors_too(opener: Opener) -> None:
    """What takes an array takes a tensor: its type, its strides, and where it lies at the save."""
    half = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4).t()
    whole = torch.arange(6.0)
    with opener() as ck:
        ck.register(model={"half": keepstep.piece(half, (4, 3), np.s_[0:4]), "one": keepstep.replica(whole, [0]),
                           "flat": keepstep.flat(whole, (2, 3), 0)})
        half.data = half + 1
        whole += 1
        ck.save(1).result()
        kept = half.clone()
        half.zero_()
        assert ck.load() == 1 and torch.equal(half, kept)
        with pytest.raises(TypeError, match=r"register\(\.\.\., replicated=\[0, 1\]\)"):
            keepstep.replica(nn.Linear(1, 1), [0, 1])
    reader = keepstep.open(opener.directory)
    assert reader.tensor("half").stored_dtype == "BF16"
    assert reader.tensor("flat").numpy().tolist() == [[1, 2, 3], [4, 5, 6]]


def test_roles_and_parts_are_dicts_and_lists(opener: Opener) -> None:
    roles = {"actor": Net(), "critic": Net()}
    parts = [torch.optim.SGD(roles["actor"].parameters(), 0.1, momentum=0.9),
             torch.optim.AdamW(roles["critic"].parameters())]
    for role, optimizer in zip(roles.values(), parts, strict=True):
        step(role, optimizer)
    with opener() as ck:
        ck.register(model=roles, optimizer=parts)
        ck.save(1).result()
        names = set(keepstep.open(opener.directory).names())
        assert {"actor.emb.weight", "critic.emb.weight", "optimizer.actor.emb.weight.momentum_buffer",
                "optimizer.critic.emb.weight.exp_avg"} <= names
        with pytest.raises(ValueError, match=r"emb.weight is registered twice"):
            ck.register(model=list(roles.values()))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda net: torch.compile(nn.DataParallel(net))])
def test_wrappers_leave_no_trace_in_names(opener: Opener, wrap: Any) -> None:
    net = Net()
    with opener() as ck:
        ck.register(model=wrap(net))
        assert set(ck._registered.specs) == set(Net().state_dict()) - {"_extra_state"}
        assert "_extra_state" in ck._registered.extras


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"step": 3}, "step is a plain int.*0-d array"),
        ({"config": {"lr": 0.1}}, r"config\.lr is a plain float"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(2, 3))])}, r"shape \(2, 3\) that nothing registered"),
        ({"optimizer": torch.optim.LBFGS([nn.Parameter(torch.zeros(2))])}, "LBFGS"),
        ({"model": nn.Linear(2, 2, device="meta")}, r"weight: .*to_empty"),
        ({"model": {"w": torch.zeros(1).expand(5)}}, r"w: .*contiguous"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_what_to_do(opener: Opener, state: dict[str, Any], told: str) -> None:
    with opener() as ck, pytest.raises((TypeError, ValueError), match=told):
        ck.register(**state)


def test_a_load_that_does_not_fit_says_what_would(opener: Opener) -> None:
    with opener() as ck:
        ck.register(model={"encoder.weight": torch.zeros(4, 4), "encoder.bias": torch.zeros(4)})
        ck.save(1).result()
        ck.register(model={"encodr.weight": torch.zeros(4, 4), "encoder.bias": torch.ones(4)})
        with pytest.raises(keepstep.MissingTensors, match=r"encodr\.weight.*encoder\.weight") as missing:
            ck.load()
        assert missing.value.names == ("encodr.weight",)
        assert ck.load(strict=False) == 1
        assert ck.last_load is not None and ck.last_load.missing == ("encodr.weight",)
        assert ck.last_load.unexpected == ("encoder.weight",)
        ck.register(model={"encoder.weight": torch.zeros(4, 5)})
        with pytest.raises(keepstep.ShapeMismatch, match=r"encoder\.weight.*4, 4.*4, 5|encoder\.weight.*4, 5.*4, 4"):
            ck.load()
        ck.register(model={"encoder.weight": torch.zeros(4, 4, dtype=torch.bfloat16)})
        with pytest.raises(keepstep.ShapeMismatch, match=r"encoder\.weight is stored as F32, not BF16; convert_dtype"):
            ck.load()
        assert ck.load(convert_dtype=True) == 1


def test_another_jobs_checkpoint_is_a_source(opener: Opener, shared_daemon: Daemon) -> None:
    """Optimizer state that this process has not yet is made from what the other job saved."""
    net, optimizer = made()
    step(net, optimizer)
    with opener() as ck:
        ck.register(model=net, optimizer=optimizer)
        ck.save(7).result()
    other, fresh = made()
    target = Opener(shared_daemon, Path(f"{opener.directory}-target"))
    with target() as ck:
        ck.register(model=other, optimizer=fresh)
        assert ck.load() is None
        assert ck.load(source=opener.directory) == 7
        assert same(state_of(other, fresh), state_of(net, optimizer))
        step(other, fresh)
        ck.save(1).result()
        assert ck.load(source=opener.directory, only=["emb.*", "head.*"]) == 7
        assert torch.equal(other.emb.weight, net.emb.weight)
        assert not torch.equal(fresh.state[other.emb.weight]["step"], optimizer.state[net.emb.weight]["step"])


def test_a_partial_load_leaves_the_rest_of_the_state_alone(opener: Opener) -> None:
    net, optimizer = made()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with opener() as ck:
        ck.register(model=net, optimizer=optimizer, scheduler=scheduler)
        step(net, optimizer)
        scheduler.step()
        ck.save(1).result()
        ck.register(model=net, optimizer=optimizer, scheduler=scheduler)
        scheduler.step()
        assert ck.load(exclude=["optimizer*", "scheduler"]) == 1
        assert scheduler.last_epoch == 2 and optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_the_log_has_one_line_a_save(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "keepstep")
    net, optimizer = made()
    with opener() as ck:
        ck.register(model=net, optimizer=optimizer)
        for number in (1, 2):
            step(net, optimizer)
            handle = ck.save(number)
            handle.staged(30)
        ck.wait()
        assert {"step", "state", "bytes", "commit_seconds"} <= handle.stats.keys()
    lines = [message for message in caplog.messages if "committed" in message]
    assert len(lines) == 2 and "trainer blocked" in lines[0]
