"""Asks a restricted process (unpickle_child.py) what is in a pickle. Nothing is unpickled here."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from keepstep.errors import DataLoss, KeepstepError

_CHILD = Path(__file__).with_name("unpickle_child.py")


class Pickles:
    """Use as a context: the process ends with it."""

    def __enter__(self) -> Pickles:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_CHILD)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}, close_fds=True, cwd="/",
        )  # fmt: skip
        return self

    def describe(self, data: bytes, name: str) -> dict[str, Any]:
        """What the child tells. DataLoss: nothing that DCP writes. KeepstepError: the child cannot be restricted."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        try:
            process.stdin.write(struct.pack("<Q", len(data)) + data)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            process.wait()
            why = process.stderr.read().decode("utf-8", "replace").strip().rsplit("\n", 1)[-1]
            raise KeepstepError(
                f"{name}: the process that reads pickles has ended: {why or process.returncode}; import where the "
                "kernel has seccomp, on x86_64 or aarch64.",
                code="FAILED_PRECONDITION",
                reason="NO_SANDBOX",
            )
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise DataLoss(f"{name} is no pickle of DCP: {told['error']}", blob=name)
        found: dict[str, Any] = told["ok"]
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
