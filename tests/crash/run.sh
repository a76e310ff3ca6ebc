#!/usr/bin/env bash
# Kills keepstepd at every step and judges what is left: see tests/crash/sweep.py.
#   tests/crash/run.sh --rounds 100
#   tests/crash/run.sh --hours 8 --ledger crash.jsonl     # goes on where the ledger ends
set -euo pipefail
cd "$(dirname "$0")/../.."
bazel build //tests/crash:keepstepd_failpoints //client/command:keepstep //client:libkeepstep.so
PYTHONPATH=client/python:. exec .venv/bin/python -m tests.crash.sweep "$@"
