#!/usr/bin/env bash
# Installs what was built: the daemon, the command, the library, the unit, a configuration.
#
#   deploy/install.sh [--prefix DIR] [--destdir DIR] [--no-systemd]
#
# --prefix DIR    where it will run from; default /usr/local
# --destdir DIR   put everything beneath DIR instead of /, as packagers and images do
# --no-systemd    without unit and group, for containers
#
# Builds first. An existing /etc/keepstep/keepstep.yaml is left as it is. Starts nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'install: %s\n' "$*" >&2; exit 1; }

prefix=/usr/local
destdir=
systemd=yes
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=${2:?--prefix needs a directory}; shift 2 ;;
    --destdir) destdir=${2:?--destdir needs a directory}; shift 2 ;;
    --no-systemd) systemd=no; shift ;;
    *) die "what is $1? See the head of $0" ;;
  esac
done
case $prefix in /*) ;; *) die "--prefix takes an absolute path" ;; esac

targets=(//daemon:keepstepd //client/command:keepstep //client:libkeepstep.so)
bazel build "${targets[@]}" || die "the build failed; deploy/setup.sh installs what it needs"

put() { install -D -m "$1" "$2" "$destdir$3"; }

put 0755 bazel-bin/daemon/keepstepd "$prefix/bin/keepstepd"
put 0755 bazel-bin/client/command/keepstep "$prefix/bin/keepstep"
put 0755 bazel-bin/client/libkeepstep.so "$prefix/lib/libkeepstep.so"
put 0644 client/keepstep.h "$prefix/include/keepstep/keepstep.h"
put 0644 client/keepstep.hpp "$prefix/include/keepstep/keepstep.hpp"
for page in docs/*.md; do put 0644 "$page" "$prefix/share/doc/keepstep/${page##*/}"; done

if [ -e "$destdir/etc/keepstep/keepstep.yaml" ]; then
  printf 'install: /etc/keepstep/keepstep.yaml is left as it is\n' >&2
else
  put 0644 deploy/keepstep.yaml /etc/keepstep/keepstep.yaml
fi

if [ "$systemd" = yes ]; then
  unit=$(mktemp)
  trap 'rm -f "$unit"' EXIT
  sed "s|/usr/local/|$prefix/|g" deploy/systemd/keepstepd.service >"$unit"
  put 0644 "$unit" "$prefix/lib/systemd/system/keepstepd.service"
  put 0644 deploy/systemd/keepstep.sysusers "$prefix/lib/sysusers.d/keepstep.conf"
fi
[ -n "$destdir" ] || ldconfig || printf 'install: ldconfig failed; programs may not find libkeepstep.so\n' >&2
printf 'install: done, beneath %s\n' "$destdir$prefix"
