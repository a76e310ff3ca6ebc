"""One load: makes room for what the checkpoint holds, fills the registered tensors, gives extra state back."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keepstep import extras
from keepstep._client import Client, LoadReport
from keepstep._state import Registered
from keepstep.errors import CheckpointNotFound


@dataclass(frozen=True)
class Load:
    """What is loaded, through which client; `foreign` when that is another job's, which knows no registration yet."""

    client: Client
    foreign: bool
    strict: bool
    convert_dtype: bool
    only: Sequence[str] | None
    exclude: Sequence[str]
    rename: Mapping[str, str]

    def run(
        self, step: int | None, registered: Callable[[], Registered], settle: Callable[[], object]
    ) -> LoadReport | None:
        """Fills every registered tensor; `step` None is "latest". None: there is no checkpoint.

        `registered()` registers again what has been replaced, and returns the registration; `settle()` returns when
        registered tensors may change.
        """
        prepared = self._prepare(step, registered, settle)
        report = self._fill(step)
        if report is not None and not report.warm and report.step != prepared and registered().before_load:
            # Another launch has committed in between, and every rank of this one was told of it, or of it no more.
            self._prepare(report.step, registered, settle)
            report = self._fill(report.step)
        return report

    def stored(self, step: int | None) -> tuple[int | None, extras.Stored]:
        """The step, and its extra state by name and rank; None and nothing when there is no such checkpoint."""
        try:
            found, records = self.client.extras(step)
        except CheckpointNotFound:
            return None, {}
        stored: dict[str, dict[int, Any]] = {}
        for record in records:
            stored.setdefault(record.name, {})[record.rank] = record.value()
        return found, stored

    def restore(self, stored: extras.Stored, rank: int, registered: Registered) -> dict[str, Any]:
        """Gives extra state to its owners. Returns what is this rank's of all of it, by name."""
        own = {
            name: by_rank[rank if rank in by_rank else min(by_rank)]
            for name, by_rank in stored.items()
            if name != extras.RNG or rank in by_rank  # two ranks must not go on with one generator's numbers
        }
        for name, value in own.items():
            extra = registered.extras.get(name)
            if extra is None or extra.restore is None:
                continue
            if (self.only is None or _matches(name, self.only)) and not _matches(name, self.exclude):
                extra.restore(stored[name] if extra.merge else value)
        return own

    def _prepare(
        self, step: int | None, registered: Callable[[], Registered], settle: Callable[[], object]
    ) -> int | None:
        """Makes room for what the checkpoint holds and this process has not yet; returns the step it looked at."""
        found: int | None = None
        before_load = registered().before_load
        if before_load:
            settle()
            found, stored = self.stored(step)
            if found is not None:
                for prepare in before_load:
                    prepare(stored)
        specs = registered().specs
        frozen = next((name for name, spec in specs.items() if not spec.writeable), None)
        if frozen is not None:
            raise ValueError(f"{frozen} is read-only memory; register a writeable array to load into")
        if self.foreign:
            self.client.register(list(specs.values()))
        return found

    def _fill(self, step: int | None) -> LoadReport | None:
        return self.client.load(
            step,
            strict=self.strict,
            convert_dtype=self.convert_dtype,
            only=list(self.only or ()),
            exclude=list(self.exclude),
            rename=dict(self.rename),
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
