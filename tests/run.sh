#!/usr/bin/env bash
# Sets up, builds and runs every test. Closes with one line: N passed, N failed.
# Exit status: 0 when nothing failed and something ran.
set -uo pipefail
cd "$(dirname "$0")/.."

deploy/setup.sh --tests || exit 1

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0

printf 'run: C++ tests\n'
bazel test //... 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
passed=$((passed + $(grep -cE '^//[^ ]+ .*PASSED in ' "$log")))
failed=$((failed + $(grep -cE '^//[^ ]+ .*(FAILED|TIMEOUT|NO STATUS|FLAKY)' "$log")))
# A build that broke names no test: it counts as one failure.
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi

printf 'run: Python and end-to-end tests\n'
.venv/bin/python -m pytest -q -p no:cacheprovider client/python tests 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
# Of pytest's own last line: tests print counts of their own.
summary=$(grep -E '[0-9]+ (passed|failed|errors?).* in [0-9.]+s' "$log" | tail -1)
count() { grep -oE "[0-9]+ $1" <<<"$summary" | grep -oE '^[0-9]+' || printf 0; }
passed=$((passed + $(count passed)))
failed=$((failed + $(count failed) + $(count errors?)))
if [ "$status" -ne 0 ] && [ "$(count failed)" = 0 ] && [ "$(count 'errors?')" = 0 ]; then failed=$((failed + 1)); fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
