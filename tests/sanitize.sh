#!/usr/bin/env bash
# Runs the suite under sanitizers, and prints what ran and what was reported. Exit status: 0 when nothing was.
#
#   sanitize.sh asan   AddressSanitizer with leaks, and UndefinedBehaviorSanitizer: every C++ test
#   sanitize.sh e2e    the same, without leaks: the end-to-end tests (or those named) against keepstepd and libkeepstep
#                      built so
#   sanitize.sh tsan   ThreadSanitizer: every C++ test that links neither gRPC nor RocksDB
#
# The packaged Abseil, gRPC and RocksDB are not built for TSan: it would take their locks for races, not ours.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-}
shift || true
reports=$(mktemp -d)
trap 'rm -rf "$reports" "$reports.found"' EXIT

# What a sanitizer writes where it finds something.
found='ERROR: AddressSanitizer|ERROR: LeakSanitizer|WARNING: ThreadSanitizer|: runtime error: '

finish() { # targets, failed tests, folder with logs
  local count
  # Not by tee /dev/stderr: where that is a file, opening it would empty it.
  { grep -rEh "$found" "$3" 2>/dev/null || true; } | sort -u >"$reports.found"
  cat "$reports.found" >&2
  count=$(wc -l <"$reports.found")
  printf '%s: %d targets or tests run, %d failed, %d reports\n' "$mode" "$1" "$2" "$count"
  [ "$2" -eq 0 ] && [ "$count" -eq 0 ] && [ "$1" -gt 0 ]
}

case $mode in
  asan) config=sanitize query='tests(//...)' ;;
  tsan) config=tsan query='tests(//...) except rdeps(//..., @grpc//:grpc + @rocksdb//:rocksdb)' ;;
  e2e) config=sanitize query= ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

if [ "$mode" != e2e ]; then
  mapfile -t targets < <(bazel query "$query" 2>/dev/null)
  bazel test --config="$config" --keep_going "$@" "${targets[@]}" 2>&1 | tee "$reports/bazel" || true
  logs=$(bazel info --config="$config" bazel-testlogs 2>/dev/null)
  for target in "${targets[@]#//}"; do cp "$logs/${target/://}/test.log" "$reports/${target//[\/:]/.}" || true; done
  passed=$(grep -cE '^//[^ ]+ .*PASSED in ' "$reports/bazel" || true)
  finish "${#targets[@]}" "$((${#targets[@]} - passed))" "$reports"
  exit
fi

# Not tests/crash: its seam takes the place of libc's functions before the sanitizer's runtime is up.
[ $# -gt 0 ] || set -- tests/e2e tests/command tests/attack/test_bad_input.py
bazel build --config=sanitize //daemon:keepstepd //client/command:keepstep //client:libkeepstep.so //tests/fake_cuda:all
KEEPSTEP_TEST_BIN=$(bazel info --config=sanitize bazel-bin 2>/dev/null)
export KEEPSTEP_TEST_BIN KEEPSTEP_LIBRARY="$KEEPSTEP_TEST_BIN/client/libkeepstep.so"
export ASAN_OPTIONS="detect_leaks=0:log_path=$reports/report" UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/report"
LD_PRELOAD=$(gcc -print-file-name=libasan.so) .venv/bin/python -m pytest -q -p no:cacheprovider "$@" 2>&1 |
  tee "$reports/pytest" || true
count() { grep -oE "[0-9]+ $1" "$reports/pytest" | tail -1 | grep -oE '^[0-9]+' || printf 0; }
failed=$(($(count failed) + $(count 'errors?')))
finish "$(($(count passed) + failed))" "$failed" "$reports"
