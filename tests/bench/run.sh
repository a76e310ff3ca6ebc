#!/usr/bin/env bash
# Builds and measures: tests/bench/run.sh [--quick] [--only NAME]... [--json FILE] [--transfer pull|window] [--directory DIR]
# Prints a table; timings never fail anything. --only gpu: GPU memory, on the fake driver.
set -euo pipefail
cd "$(dirname "$0")/../.."
case "${1:-}" in
  -h | --help) exec .venv/bin/python -m tests.bench.main --help ;;
esac
deploy/setup.sh --tests
targets=(//daemon:keepstepd //client:libkeepstep.so //storage:catalog_bench //tests/bench:c_rank)
case " $* " in *" gpu "*) targets+=(//tests/fake_cuda:libcuda.so.1) ;; esac
bazel build "${targets[@]}"
exec .venv/bin/python -m tests.bench.main "$@"
