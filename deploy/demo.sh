#!/usr/bin/env bash
# Two demos, each to be watched in a terminal:
#   deploy/demo.sh flat-steps      save every 10 steps, flat step time: DCP's async_save and Keepstep, drawn live
#   deploy/demo.sh pull-the-plug   a training job killed 20 times in the middle of saves, and what is left of it
# Options go to the demo; --help lists them.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  flat-steps | pull-the-plug) demo=${1//-/_}; shift ;;
  *) printf 'usage: deploy/demo.sh flat-steps|pull-the-plug [options]\n' >&2; exit 2 ;;
esac

deploy/setup.sh
printf 'demo: building\n' >&2
bazel build //daemon:keepstepd //client/command:keepstep //client:libkeepstep.so
exec .venv/bin/python -m "tests.training.$demo" "$@"
