#!/usr/bin/env python3
"""Adds the three io_uring calls to a container engine's own seccomp profile, and nothing else.

    seccomp.py /usr/share/containers/seccomp.json > keepstep-seccomp.json
    podman run --security-opt seccomp=keepstep-seccomp.json …

The base is the profile that the engine ships (podman and buildah: the path above; Docker: default.json of its sources),
so that all it refuses stays refused. Without the three calls keepstepd reads and writes by threads: slower, not wrong.
"""

from __future__ import annotations

import json
import sys
from typing import Any

CALLS = ["io_uring_enter", "io_uring_register", "io_uring_setup"]


def with_io_uring(base: dict[str, Any]) -> dict[str, Any]:
    """The profile with CALLS allowed: taken out of every rule that refuses them, then one rule of their own."""
    rules = [{**rule, "names": [name for name in rule["names"] if name not in CALLS]} for rule in base["syscalls"]]
    allow = {"names": CALLS, "action": "SCMP_ACT_ALLOW", "args": [], "comment": "keepstepd: asynchronous file I/O"}
    return {**base, "syscalls": [rule for rule in rules if rule["names"]] + [allow]}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        base = json.load(file)
    json.dump(with_io_uring(base), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
