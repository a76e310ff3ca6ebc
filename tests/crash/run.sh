#!/usr/bin/env bash
# Attacks on keepstepd, judged by a program of their own. Each is described at the head of its file.
#   tests/crash/run.sh --rounds 100                             # sweep.py: kills it at every step
#   tests/crash/run.sh --hours 8 --ledger crash.jsonl           # … on from where the ledger ends
#   tests/crash/run.sh --faults --all --ledger faults.jsonl     # faults.py: makes every system call fail
#   tests/crash/run.sh --disk-full                              # disk_full.py: no room, as root
set -euo pipefail
cd "$(dirname "$0")/../.."
what=sweep
case "${1:-}" in
  --faults) what=faults; shift ;;
  --disk-full) what=disk_full; shift ;;
esac
bazel build //tests/crash:keepstepd_failpoints //daemon:keepstepd //client/command:keepstep //client:libkeepstep.so
PYTHONPATH=client/python:. exec .venv/bin/python -m "tests.crash.$what" "$@"
