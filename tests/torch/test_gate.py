"""Which changes wait for the copy, and which saves wait instead: over a library that says whom it was asked about."""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from typing import Any

import keepstep
import pytest
import torch
from keepstep.torch.gate import TESTED
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torch.optim.swa_utils import AveragedModel


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.linear(x))


class Loop:
    """A training loop, and what the tensors were at each question to the gate."""

    def __init__(self, library: Any, optimizer: Any = torch.optim.AdamW, **state: Any) -> None:
        torch.manual_seed(0)
        self.library = library
        self.net = Net()
        self.optimizer = optimizer(self.net.parameters()) if isinstance(optimizer, type) else optimizer(self.net)
        self.asked: list[tuple[int, torch.Tensor]] = []
        tell = library.ks_before_update

        def ask(client: object, group: int, timeout_ms: int, error: object) -> int:
            self.asked.append((group, self.net.linear.weight.detach().clone()))
            return int(tell(client, group, timeout_ms, error))

        library.ks_before_update = ask
        self.ck = keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1, rng=False)
        overlap = state.pop("overlap", None)
        self.ck.register(model=self.net, optimizer=self.optimizer, overlap=overlap, **state)
        self.saves = 0

    def step(self) -> None:
        self.net(torch.randn(3, 4)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self) -> set[int]:
        """The groups for which `save` waited before it returned."""
        self.asked.clear()
        self.saves += 1
        self.ck.save(self.saves)
        self.library.settle(self.saves, "COMMITTED")
        groups = {group for group, _ in self.asked}
        self.asked.clear()
        return groups

    @property
    def group(self) -> int:
        return self.ck._registered.groups["optimizer"]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    from keepstep.torch import gate

    gate._say_once.cache_clear()
    caplog.set_level(logging.WARNING, "keepstep")
    return caplog


@pytest.mark.parametrize("kind", sorted(TESTED, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_a_tested_optimizer_changes_nothing_before_it_has_passed_the_gate(library: Any, kind: Any) -> None:
    """The claim that puts a class on the list: at the question every tensor is as it was at the save."""
    weights_only = (lambda net: kind([net.linear.weight])) if kind.__name__ == "Muon" else kind
    loop = Loop(library, weights_only)
    loop.step()
    assert loop.save() == {0}
    held = [tensor for state in loop.optimizer.state.values() for tensor in state.values()
            if isinstance(tensor, torch.Tensor)] + [loop.net.linear.weight]
    before = [tensor.detach().clone() for tensor in held]
    at_question: list[bool] = []
    tell = library.ks_before_update

    def ask(client: object, group: int, timeout_ms: int, error: object) -> int:
        at_question.append(all(map(torch.equal, held, before)))
        return int(tell(client, group, timeout_ms, error))

    library.ks_before_update = ask
    loop.step()
    assert at_question == [True] and not torch.equal(held[-1], before[-1])
    assert [group for group, _ in loop.asked] == [loop.group]
    loop.asked.clear()
    loop.step()
    assert loop.asked == []  # nothing is in flight: no call at all


def test_buffers_and_frozen_parameters_are_copied_before_save_returns(library: Any) -> None:
    """BatchNorm changes its statistics in forward, which passes no gate."""
    loop = Loop(library)
    loop.step()
    loop.save()
    loop.step()
    assert loop.save() == {0}
    groups = {name: spec.group for name, spec in loop.ck._registered.specs.items()}
    assert groups["bn.running_mean"] == groups["bn.num_batches_tracked"] == 0
    assert groups["linear.weight"] == groups["optimizer.linear.weight.exp_avg"] == loop.group


def test_the_first_save_and_one_without_a_step_before_it_do_not_overlap(
    library: Any, told: pytest.LogCaptureFixture
) -> None:
    """A hook that was silent between two saves may be silent after the next one too."""
    loop = Loop(library)
    assert loop.group in loop.save()
    assert told.messages == []
    loop.step()
    assert loop.group not in loop.save()
    assert loop.group in loop.save()
    loop.step()
    assert loop.group not in loop.save()
    assert loop.group in loop.save()
    assert sum("its step was not seen" in message for message in told.messages) == 1


class Lion(torch.optim.Optimizer):
    """Somebody's optimizer, which may do anything anywhere."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad.sign()


@pytest.mark.parametrize("kind", [Lion, type("MyAdam", (torch.optim.Adam,), {})])
def test_an_optimizer_outside_the_list_overlaps_only_by_choice(
    library: Any, told: pytest.LogCaptureFixture, kind: Any
) -> None:
    loop = Loop(library, kind)
    loop.step()
    loop.save()
    loop.step()
    assert loop.group in loop.save()
    assert [kind.__name__ in message for message in told.messages] == [True]
    chosen = Loop(library, kind, overlap=True)
    chosen.step()
    chosen.save()
    chosen.step()
    assert chosen.group not in chosen.save()
    refused = Loop(library, torch.optim.Adam, overlap=False)
    refused.step()
    refused.save()
    refused.step()
    assert refused.group in refused.save()


def test_an_optimizer_in_backward_waits_at_each_inner_step(library: Any) -> None:
    def in_backward(net: nn.Module) -> list[torch.optim.Optimizer]:
        _apply_optimizer_in_backward(torch.optim.SGD, net.parameters(), {"lr": 0.1})
        return [optimizer for parameter in net.parameters()
                for optimizer in parameter._in_backward_optimizers]  # type: ignore[attr-defined]

    class Backward(Loop):
        def step(self) -> None:
            self.net(torch.randn(3, 4)).square().sum().backward()

    loop = Backward(library, in_backward)
    loop.step()
    loop.save()
    loop.step()
    assert loop.save() == {0}
    before = loop.net.linear.weight.detach().clone()
    loop.step()
    groups = loop.ck._registered.groups
    assert {group for group, _ in loop.asked} == set(groups.values()) and len(groups) == 4
    question = next(held for group, held in loop.asked if group == loop.ck._registered.specs["linear.weight"].group)
    assert torch.equal(question, before) and not torch.equal(loop.net.linear.weight, before)
    with pytest.raises(ValueError, match="_in_backward_optimizers"):
        loop.ck.register(model=loop.net)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_waits_or_the_save_does(library: Any, backend: str) -> None:
    loop = Loop(library, torch.optim.SGD)
    compiled = torch.compile(loop.optimizer.step, backend=backend)

    def step() -> None:
        loop.net(torch.randn(3, 4)).square().sum().backward()
        compiled()
        loop.optimizer.zero_grad()

    for _ in range(4):
        step()
        waited = loop.group in loop.save()
        before = loop.net.linear.weight.detach().clone()
        step()
        asked = [held for group, held in loop.asked if group == loop.group]
        assert waited or (asked and torch.equal(asked[0], before))


def test_while_a_graph_is_captured_the_hook_neither_waits_nor_promises(
    library: Any, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(library)
    loop.step()
    loop.save()
    loop.step()
    assert loop.group not in loop.save()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    loop.step()
    assert loop.asked == []
    monkeypatch.undo()
    loop.step()
    assert loop.group in loop.save()


def test_an_averaged_model_is_a_group_of_its_own(library: Any) -> None:
    torch.manual_seed(0)
    net = Net()
    ema = AveragedModel(net)
    optimizer = torch.optim.SGD(net.parameters())
    with keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1, rng=False) as ck:
        ck.register(model=net, optimizer=optimizer, ema=ema)
        groups = ck._registered.groups
        specs = ck._registered.specs
        assert {spec.group for name, spec in specs.items() if name.startswith("ema.")} == {groups["ema"]}
        assert "ema.linear.weight" in specs and "ema.n_averaged" in specs
        ck.save(1)
        assert groups["ema"] in library.updates
        library.updates.clear()
        ck._issued += 1
        ck.before_update("ema")
        assert library.updates == [groups["ema"]]
        with pytest.raises(ValueError, match="there are optimizer, ema"):
            ck.before_update("emma")
        library.settle(1, "COMMITTED")
        library.updates.clear()
        ck.register(model=net, optimizer=optimizer, ema=ema, overlap={"ema"})
        ck.save(2)
        assert library.updates and groups["ema"] not in library.updates  # the program guards it, by its own choice
        library.settle(2, "COMMITTED")


def test_training_goes_on_after_close(library: Any) -> None:
    loop = Loop(library)
    loop.step()
    loop.save()
    loop.ck.close()
    loop.step()
    assert loop.asked == []


def test_another_optimizer_asks_nobody(library: Any) -> None:
    loop = Loop(library)
    loop.step()
    loop.save()
    other = torch.optim.SGD(copy.deepcopy(loop.net).parameters())
    other.step()
    assert loop.asked == []


def test_nothing_is_kept_alive_and_nothing_grows(library: Any) -> None:
    """1,000 saves, then the Checkpointer goes without the collector's help."""
    loop = Loop(library)
    for _ in range(3):
        loop.step()
        loop.save()
        loop.ck.wait()
    gc.collect()
    objects = len(gc.get_objects())
    for _ in range(1000):
        loop.optimizer.step()
        loop.save()
        loop.ck.wait()
        library.updates.clear()
    gc.collect()
    assert len(gc.get_objects()) - objects < 100
    gone = weakref.ref(loop.ck)
    registered = weakref.ref(loop.ck._registered)
    net = weakref.ref(loop.net)
    gc.disable()
    try:
        loop.ck.close()
        library.ks_before_update = None
        del loop
        assert gone() is None and registered() is None
    finally:
        gc.enable()
    gc.collect()
    assert net() is None


class OneStream:
    """A program whose tensors lie on one GPU, and its current stream."""

    def of_torch(self) -> int:
        return 7

    def now(self, further: Any = ()) -> list[int]:
        return [7]


# Crash flush: an update that is announced late, or done early, would have a half-changed state look whole.
def test_with_rescue_a_step_is_announced_before_and_after_it_changes_anything(library: Any) -> None:
    net = Net()
    before = net.linear.weight.detach().clone()
    seen: list[tuple[str, int, int, bool]] = []
    announced = library.announced

    class Told(list[tuple[str, int, int]]):
        def append(self, event: tuple[str, int, int]) -> None:
            seen.append((*event, bool(torch.equal(before, net.linear.weight))))

    library.announced = Told(announced)
    optimizer = torch.optim.AdamW(net.parameters())
    ck = keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1, rng=False, rescue=True, preemption=False)
    ck.register(model=net, optimizer=optimizer)
    ck._streams = OneStream()  # type: ignore[assignment]
    group = ck._registered.groups["optimizer"]
    net(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    assert seen == [("before", group, 7, True), ("after", group, 7, False)]
    ck.should_save(1)
    assert [step for step, _ in library.notes] == [1]
    ck.close()
    optimizer.step()
    assert len(seen) == 2, "a closed Checkpointer hears of no step"


def test_what_no_tested_hook_announces_is_not_noted(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    ck = keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1, rng=False, rescue=True, preemption=False)
    monkeypatch.setattr("keepstep._registration.Spec.on_device", True)
    ck.register(model=net, optimizer=torch.optim.AdamW(net.parameters()))
    assert ck.rescue.why_not == "bn.running_mean: no tested hook announces its updates"
    ck.should_save(1)
    assert library.notes == []
    frozen = nn.Linear(2, 2).requires_grad_(False)
    ck.register(model=frozen)
    assert ck.rescue.why_not == "its probe failed", "what the library says"
