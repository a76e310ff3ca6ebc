"""`keepstep completion`: bash completes what --help shows, with names from the daemon; nothing in a name is run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.harness.daemon import KEEPSTEP, REPOSITORY, Daemon

COMPLETE = r"""
eval "$(%(keepstep)s completion bash)"
COMP_WORDS=(%(words)s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _keepstep
printf '%%s\n' "${COMPREPLY[@]}"
"""


def verbs() -> list[str]:
    text = subprocess.run([str(KEEPSTEP), "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  ([a-z]+)  +[A-Z]", text, re.MULTILINE)


def completed(*words: str, address: str = "unix:///nowhere/keepstep.sock") -> list[str]:
    quoted = " ".join(f"'{word}'" for word in (str(KEEPSTEP), *words))
    script = COMPLETE % {"keepstep": KEEPSTEP, "words": quoted}
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True,
                            env={"KEEPSTEP_ADDR": address, "PATH": "/usr/bin:/bin"})
    return result.stdout.split()


def test_every_verb_and_its_options_complete() -> None:
    known = verbs()
    assert {"status", "save", "why", "completion"} <= set(known)
    assert sorted(completed("")) == sorted(known)
    assert completed("st") == ["status"]
    for verb in known:
        help_text = subprocess.run([str(KEEPSTEP), verb, "--help"], capture_output=True, text=True, check=True).stdout
        options = set(re.findall(r"(--[a-z][a-z-]*)", help_text.split("Options:")[-1]))
        assert options <= set(completed(verb, "--")), verb
    assert completed("export", "--component", "") == ["model", "optimizer", "all"]
    assert completed("--timeout", "5", "completion", "b") == ["bash"]


def test_names_come_from_the_daemon_and_are_not_run(daemon: Daemon, home: Path) -> None:
    source = home / "x.safetensors"
    source.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert daemon.command("import", str(source), f"{home}/root/vit/3").returncode == 0
    hostile = "x$(touch owned)"
    assert daemon.command("import", str(source), f"{home}/root/{hostile}/0").returncode == 0
    assert {"vit", "vit/3"} <= set(completed("why", "v", address=daemon.address))
    script = COMPLETE % {"keepstep": KEEPSTEP, "words": f"'{KEEPSTEP}' why x"}
    out = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=home,
                         env={"KEEPSTEP_ADDR": daemon.address, "PATH": "/usr/bin:/bin"}).stdout
    assert "x\\$\\(touch\\ owned\\)" in out
    assert not (home / "owned").exists()


def test_scripts_of_all_shells_name_every_verb() -> None:
    for shell in ("bash", "zsh", "fish"):
        script = subprocess.run([str(KEEPSTEP), "completion", shell], capture_output=True, text=True, check=True).stdout
        assert all(re.search(rf"\b{verb}\b", script) for verb in verbs()), shell


def test_every_verb_is_on_its_page() -> None:
    page = (REPOSITORY / "docs/command.md").read_text()
    missing = [verb for verb in verbs() if not re.search(rf"^## .*`{verb}\b", page, re.MULTILINE)]
    assert not missing, f"docs/command.md lacks {missing}"
