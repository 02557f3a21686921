#!/bin/sh
# Runs the tests whose outcome could depend on the Python on every one at hand that pyproject.toml names as supported: on the
# PATH, under pyenv, and the system's. Each release has an environment of its own in .venv-pythons/.
#
# PYTHONS='/path/to/python3.12 python3.13' chooses them; PYTEST_ARGS is handed to pytest.
set -eu

cd "$(dirname "$0")/.."
say() { printf 'pythons: %s\n' "$*" >&2; }

supported=$(sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' pyproject.toml)
release() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }
candidates() {
  for minor in $supported; do echo "python$minor"; done
  echo /usr/bin/python3
  for minor in $supported; do ls "${PYENV_ROOT:-$HOME/.pyenv}/versions/$minor".*/bin/python3 2>/dev/null || true; done
}

# One interpreter for each release, and only releases that are supported.
pythons=''
releases=''
for python in ${PYTHONS:-$(candidates)}; do
  version=$(release "$python") || continue
  case " $(echo $supported) " in *" ${version%.*} "*) ;; *) continue ;; esac
  case " $releases " in *" $version "*) continue ;; esac
  pythons="$pythons $python"
  releases="$releases $version"
done
for minor in $supported; do
  case "$releases " in *" $minor."*) ;; *) say "no Python $minor at hand" ;; esac
done
[ -n "$pythons" ] || { say 'no supported Python at hand'; exit 1; }

failed=''
for python in $pythons; do
  version=$(release "$python")
  venv=.venv-pythons/$version
  mkdir -p .venv-pythons
  say "Python $version ($python)"
  # shellcheck disable=SC2086 # PYTEST_ARGS are words
  VENV=$venv PYTHON=$python deploy/setup.sh dev \
    && "$venv/bin/python" -m pytest -q -n "${PYTEST_WORKERS:-auto}" --dist worksteal tests/unit tests/scenarios tests/fuzz ${PYTEST_ARGS:-} \
    || failed="$failed $version"
done
[ -z "$failed" ] || { say "failed on$failed"; exit 1; }
say "passed on$releases"
