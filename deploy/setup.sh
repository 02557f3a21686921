#!/bin/sh
# Makes or mends the virtual environment .venv of this checkout, from whatever Python the machine has.
#
#   deploy/setup.sh run    what Lychgate needs to run
#   deploy/setup.sh dev    that, and what the checks and tests need
#
# A second run does nothing unless pyproject.toml, this script or the folder's place has changed, or the environment is
# broken. Packages come from the index that pip is configured for. The environment is made by the first way that works:
# python3 -m venv; the machine's own pip or virtualenv; Debian's package python3-venv where it may be installed (as root, or
# by a sudo that asks for no password).
#
# VENV=folder chooses another folder than .venv. PYTHON=/path/to/python3 chooses the interpreter. Else the system's own comes first where it is new enough, before others
# on the PATH: the system keeps it up to date, and it is built with profiles, which makes the gateway a fifth faster than
# what pyenv builds by default. Nothing is installed for it where another Python needs nothing.
set -eu

cd "$(dirname "$0")/.."
what=${1:-run}
case $what in
  run | dev) ;;
  *) echo "usage: $0 run|dev" >&2; exit 2 ;;
esac
venv=${VENV:-.venv}
log=$venv/setup.log

say() { printf 'setup: %s\n' "$*" >&2; }
state() { { pwd; cat pyproject.toml deploy/setup.sh; } | cksum; }
is_done() { [ -f "$venv/.done-$1" ] && [ "$(cat "$venv/.done-$1")" = "$(state)" ]; }
is_sound() { "$venv/bin/python" -I -c 'import gateway.policy, pip' >/dev/null 2>&1; }

if { is_done dev || is_done "$what"; } && is_sound; then
  exit 0
fi

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

pythons() {
  for candidate in ${PYTHON:-/usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11}; do
    if is_new_enough "$candidate"; then command -v "$candidate"; fi
  done | awk '!known[$0]++'
}

has_pip() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

# Each way leaves an environment with pip in it, or fails. What a failed one left behind is removed by the next.
by_venv() { "$python" -m venv --clear "$venv" && has_pip; }
by_pip() {
  "$python" -m pip --version && "$python" -m venv --clear --without-pip "$venv" \
    && "$python" -m pip --python "$venv/bin/python" install --ignore-installed pip && has_pip
}
by_virtualenv() { "$python" -m virtualenv --clear "$venv" && has_pip; }
by_apt() {
  command -v apt-get || return 1
  if [ "$(id -u)" = 0 ]; then as_root=''; elif sudo -n true; then as_root='sudo -n'; else return 1; fi
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  say "installing Debian's package python$version-venv"
  for attempt in 1 2; do
    # shellcheck disable=SC2086 # as_root is two words or none
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "python$version-venv" && break
    [ "$attempt" = 2 ] || $as_root apt-get update
  done
  by_venv
}

make_venv() {
  attempts=$(mktemp)
  for ways in 'by_venv by_pip by_virtualenv' by_apt; do
    for python in $pythons; do
      for way in $ways; do
        if "$way" >>"$attempts" 2>&1; then
          say "made $venv with $python"
          rm -f "$attempts"
          return
        fi
        rm -rf "$venv"
      done
    done
  done
  tail -n 20 "$attempts" >&2
  rm -f "$attempts"
  say "no virtual environment could be made with $(echo $pythons). On Debian this one command helps: apt-get install python3-venv"
  return 1
}

install() {
  if ! "$venv/bin/python" -m pip install --prefer-binary "$@" >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "pip could not install $* (all of it: $log)"
    return 1
  fi
}

if ! { has_pip && is_new_enough "$venv/bin/python"; }; then
  pythons=$(pythons)
  if [ -z "$pythons" ]; then
    say "Lychgate needs Python 3.11 or newer${PYTHON:+, and $PYTHON is none}. On Debian: apt-get install python3"
    exit 1
  fi
  rm -rf "$venv"
  make_venv
fi
rm -f "$venv"/.done-*
: >"$log"
say "installing what pyproject.toml asks for ($what)"
install --upgrade 'pip>=25.1' # --group
if [ "$what" = dev ]; then
  install --editable '.[http,sql]' --group dev
else
  install --editable .
fi
state >"$venv/.done-$what"
