#!/usr/bin/env bash
# Runs the fuzz targets (tests/fuzz/*_target.cc) under libFuzzer with ASan and UBSan, and prints what each did.
#
#   run.sh [--seconds N] [--only NAME]... [--jobs N]   N seconds (300) each; inputs found so far are the start
#   run.sh --totals                                    what all runs on this machine add up to
#   run.sh --minimise [--only NAME]...                 the smallest set of inputs with the same coverage → corpus/
#
# What is found and the ledger of runs stay in $KEEPSTEP_FUZZ_DIR (~/.cache/keepstep-fuzz), so that short runs add up.
# A finding's input and log are kept there too, named on the last line. Exit status: 0 when nothing was found.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=300 jobs=1 mode=fuzz only=()
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2; shift 2 ;;
    --only) only+=("$2"); shift 2 ;;
    --jobs) jobs=$2; shift 2 ;;
    --totals) mode=totals; shift ;;
    --minimise) mode=minimise; shift ;;
    *) printf 'run.sh: unknown argument %s\n' "$1" >&2; exit 2 ;;
  esac
done

work=${KEEPSTEP_FUZZ_DIR:-$HOME/.cache/keepstep-fuzz}
most_files=16 most_bytes=2048  # of what --minimise adds to a target's corpus
mkdir -p "$work/findings"
[ ${#only[@]} -gt 0 ] || mapfile -t only < <(cd tests/fuzz && ls -- *_target.cc | sed 's/_target\.cc$//')

# target, commit, seconds, executions, covered edges, findings: one line a run.
table() {
  printf '%-18s %8s %12s %9s %9s\n' target seconds executions coverage findings
  awk -F'\t' '{ if (!($1 in n)) order[++count] = $1; n[$1] = 1; s[$1] += $3; e[$1] += $4; f[$1] += $6
                if ($5 > c[$1]) c[$1] = $5 }
    END { for (i = 1; i <= count; i++) { t = order[i]
            printf "%-18s %8d %12d %9d %9d\n", t, s[t], e[t], c[t], f[t]; S += s[t]; E += e[t]; F += f[t] }
          printf "%-18s %8d %12d %9s %9d\n", "all", S, E, "", F }' "$@"
}

if [ "$mode" = totals ]; then
  table "$work/ledger.tsv"
  exit 0
fi

command -v clang-16 >/dev/null || { printf 'run.sh: clang-16 is missing: run deploy/setup.sh --fuzz\n' >&2; exit 1; }
# An output base of its own: the other compiler would otherwise cost the normal build its cache.
base="$(bazel info output_base 2>/dev/null)-fuzz"
targets=("${only[@]/%/_fuzz}")
bazel --output_base="$base" build --config=fuzz "${targets[@]/#///tests/fuzz:}" >"$work/build.log" 2>&1 ||
  { cat "$work/build.log" >&2; exit 1; }
programs="$(bazel --output_base="$base" info --config=fuzz bazel-bin 2>/dev/null)/tests/fuzz"
bazel --output_base="$base" shutdown
commit=$(git rev-parse --short HEAD 2>/dev/null || printf unknown)
common=(-timeout=20 -rss_limit_mb=3000 -max_len=8192 -print_final_stats=1 -detect_leaks=0)

stat_of() { sed -n "s/^stat::$1: *//p" "$2" | tail -1; }

fuzz_one() {
  local target=$1 log="$work/$1.log" dictionary=()
  mkdir -p "$work/$target"
  [ ! -e "tests/fuzz/$target.dict" ] || dictionary=(-dict="tests/fuzz/$target.dict")
  local status=0
  "$programs/${target}_fuzz" "${common[@]}" "${dictionary[@]}" -max_total_time="$seconds" \
    -artifact_prefix="$work/findings/$target-" "$work/$target" "tests/fuzz/corpus/$target" >"$log" 2>&1 || status=$?
  local coverage executions ran
  coverage=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -1)
  executions=$(stat_of number_of_executed_units "$log")
  ran=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log" | tail -1)
  printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$target" "$commit" "${ran:-0}" "${executions:-0}" "${coverage:-0}" \
    "$((status != 0))" >"$work/$target.last"
  [ "$status" -eq 0 ] || { cp "$log" "$work/findings/$target-$(date -u +%H%M%S).log" && tail -40 "$log" >&2; }
}

# The smallest inputs that together cover what all of them do; at most so many and so large, for a small repository.
minimise_one() {
  local target=$1 kept="$work/$1.kept" corpus="tests/fuzz/corpus/$1" file count=0
  rm -rf "$kept" && mkdir "$kept"
  "$programs/${target}_fuzz" "${common[@]}" -merge=1 "$kept" "$corpus" "$work/$target" >"$work/$target.log" 2>&1
  # libFuzzer names an input by its SHA-1: what the corpus has under a better name is not added.
  sha1sum "$corpus"/* | cut -d' ' -f1 >"$work/$target.known"
  while read -r file; do
    [ "$count" -lt "$most_files" ] || break
    ! grep -qx "$(basename "$file")" "$work/$target.known" || continue
    cp "$file" "$corpus/"
    count=$((count + 1))
  done < <(find "$kept" -type f -size "-${most_bytes}c" -printf '%s %p\n' | sort -rn | cut -d' ' -f2)
  printf '%-18s %d inputs added\n' "$target" "$count"
}

running=0
for target in "${only[@]}"; do
  if [ "$mode" = minimise ]; then
    minimise_one "$target"
    continue
  fi
  fuzz_one "$target" &
  running=$((running + 1))
  [ "$running" -lt "$jobs" ] || { wait -n; running=$((running - 1)); }
done
wait
[ "$mode" = fuzz ] || exit 0
last=("${only[@]/#/$work/}")
cat "${last[@]/%/.last}" >>"$work/ledger.tsv"
table "${last[@]/%/.last}"
findings=$(cut -f6 "${last[@]/%/.last}" | paste -sd+ | bc)
[ "$findings" -eq 0 ] || { printf 'inputs that failed: %s\n' "$work/findings"; exit 1; }
