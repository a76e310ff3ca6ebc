#!/usr/bin/env bash
# Builds the wheel: the Python package, libkeepstep, keepstepd, keepstep, and the libraries that they need.
#
#   deploy/wheel.sh [--built] [DIRECTORY]
#
# --built     takes the programs that bazel-bin holds, without building first
# DIRECTORY   where the wheel goes; default dist
#
#   1. Programs and library go into the package as they were built, beside the licences of the libraries they load.
#   2. setuptools makes a wheel for any Python 3 on this kind of machine.
#   3. auditwheel copies the libraries into it under names of their own, points everything at them by $ORIGIN, strips it, and
#      names the oldest glibc that what is inside needs: the wheel's tag. Left to the system are what auditwheel's policy lists:
#      glibc, libstdc++, libgcc, zlib.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'wheel: %s\n' "$*" >&2; exit 1; }

built=
out=dist
while [ $# -gt 0 ]; do
  case $1 in
    --built) built=yes; shift ;;
    -*) die "what is $1? See the head of $0" ;;
    *) out=$1; shift ;;
  esac
done

deploy/setup.sh --wheel || exit 1
targets=(//daemon:keepstepd //client/command:keepstep //client:libkeepstep.so)
[ -n "$built" ] || bazel build "${targets[@]}" || die "the build failed"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
python=$PWD/.venv/bin/python
package=$stage/source/keepstep
mkdir -p "$stage/source" "$out"
cp -r client/python/keepstep client/python/pyproject.toml LICENSE deploy/wheel/setup.py "$stage/source"
find "$stage/source" -name __pycache__ -prune -exec rm -r {} +
install -D -m 0755 bazel-bin/daemon/keepstepd "$package/bin/keepstepd"
install -D -m 0755 bazel-bin/client/command/keepstep "$package/bin/keepstep"
install -D -m 0755 bazel-bin/client/libkeepstep.so "$package/libkeepstep.so"
for name in keepstep keepstepd; do install -D -m 0755 deploy/wheel/program.py "$stage/source/scripts/$name"; done
"$python" deploy/wheel/licences.py "$stage/source/licences" "$package"/bin/* "$package/libkeepstep.so"

(cd "$stage/source" && "$python" setup.py -q bdist_wheel -d "$stage/plain" >"$stage/log" 2>&1) ||
  { cat "$stage/log" >&2; die "setuptools failed"; }
PATH=$PWD/.venv/bin:$PATH "$python" -m auditwheel repair --strip -w "$stage/repaired" "$stage"/plain/*.whl >"$stage/log" 2>&1 ||
  { cat "$stage/log" >&2; die "auditwheel failed"; }
for wheel in "$stage"/repaired/*.whl; do
  mv "$wheel" "$out/"
  printf '%s\n' "$out/${wheel##*/}"
  printf 'wheel: %s, %s installed\n' "$(du -h "$out/${wheel##*/}" | cut -f1)" \
    "$("$python" -c 'import sys, zipfile; print(sum(one.file_size for one in zipfile.ZipFile(sys.argv[1]).infolist()) >> 20, "MiB")' "$out/${wheel##*/}")" >&2
done
