#!/usr/bin/env bash
# Sets up, builds, and runs the main job: a real model saved by four processes, killed, and restored in other layouts.
# Options go to the job: --keep leaves the daemon running.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  -h | --help) printf 'usage: deploy/quickstart.sh [--keep]\n'; exit 0 ;;
esac

deploy/setup.sh
printf 'quickstart: building\n' >&2
bazel build //daemon:keepstepd //client/command:keepstep //client:libkeepstep.so
exec .venv/bin/python -m tests.quickstart.main_job "$@"
