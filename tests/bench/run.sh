#!/usr/bin/env bash
# Builds and measures: tests/bench/run.sh [--quick] [--only NAME] [--json FILE] [--directory DIR]
# Prints a table; timings never fail anything.
set -euo pipefail
cd "$(dirname "$0")/../.."
case "${1:-}" in
  -h | --help) exec .venv/bin/python -m tests.bench.main --help ;;
esac
deploy/setup.sh --tests
bazel build //daemon:keepstepd //client:libkeepstep.so
exec .venv/bin/python -m tests.bench.main "$@"
