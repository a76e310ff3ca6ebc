#!/usr/bin/env bash
# Makes the bundle: a folder with keepstepd, keepstep, libkeepstep and its headers, the wheel, and the libraries that
# they need. It runs from any path, without root, where nothing was installed. (`keepstep bundle`, a text file for a bug
# report, is another thing.)
#
#   deploy/bundle.sh [--built] [--wheel FILE] [--json] [DIRECTORY]
#
# --built     takes the programs that bazel-bin holds, without building first
# --wheel     takes a wheel that deploy/wheel.sh has made of the same build, instead of making one
# --json      the summary as JSON on stdout, instead of the folder's name there and a table on stderr
# DIRECTORY   where the folder keepstep-VERSION-linux-MACHINE goes; default dist. One of that name is never touched.
#
#   1. deploy/wheel.sh makes the wheel.
#   2. deploy/bundle/fill.py puts it into the folder with what it is made of, and says what that asks of a system.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'bundle: %s\n' "$*" >&2; exit 1; }

built=
wheel=
json=
out=dist
while [ $# -gt 0 ]; do
  case $1 in
    --built) built=yes; shift ;;
    --wheel) wheel=${2:?--wheel needs a file}; shift 2 ;;
    --json) json=--json; shift ;;
    -*) die "what is $1? See the head of $0" ;;
    *) out=$1; shift ;;
  esac
done

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
commit=$(git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || printf unknown)
# What is zipped has the commit's time, so that one commit gives one bundle.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
deploy/setup.sh --wheel || exit 1
targets=(//daemon:keepstepd //client/command:keepstep //client:libkeepstep.so)
[ -n "$built" ] || bazel build "${targets[@]}" || die "the build failed"
if [ -z "$wheel" ]; then
  deploy/wheel.sh --built "$stage" >"$stage/log" 2>&1 || { cat "$stage/log" >&2; die "the wheel could not be made"; }
  wheel=$(echo "$stage"/*.whl)
fi
mkdir -p "$out"
export PATH=$PWD/.venv/bin:$PATH PYTHONPATH=$PWD/deploy/wheel PYTHONDONTWRITEBYTECODE=1
python deploy/bundle/fill.py $json --commit "$commit" "$wheel" "$out"
