#!/bin/sh
# Installs what tests/peers.txt names and is missing: npm's packages as any user, Debian's where it may, as root or by a sudo
# that asks for no password. It starts no service, removes no package, and never fails: a test whose peer is missing is skipped and says so.
set -eu

cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'peers: %s\n' "$*" >&2; }

missing=''
from_npm=''
while read -r name package check; do
  case $name in '' | '#'*) continue ;; esac
  sh -c "$check" >/dev/null 2>&1 </dev/null && continue
  case $package in npm:*) from_npm="$from_npm ${package#npm:}"; continue ;; esac
  case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
done <tests/peers.txt
if [ -n "$from_npm" ]; then
  say "installing npm's$from_npm"
  tests/npm/packages.sh install || say "the tests that need npm's$from_npm are skipped"
fi
missing=${missing# }
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  say "not a Debian system: install these yourself for all tests to run: $missing"
  exit 0
fi
if [ "$(id -u)" = 0 ]; then
  as_root=''
elif sudo -n true 2>/dev/null; then
  as_root='sudo -n'
else
  say "for all tests to run, once as root: apt-get install $missing"
  exit 0
fi

say "installing $missing"
log=$(mktemp)
# Databases and directories start when they are installed, unless this says no (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] && printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null; then
  trap '$as_root rm -f "$policy"' EXIT
  $as_root chmod 755 "$policy"
fi
for attempt in 1 2; do
  # Without a configuration Debian's Postfix does not start; an installed mail server of another kind is left alone.
  echo 'postfix postfix/main_mailer_type select No configuration' | $as_root debconf-set-selections >>"$log" 2>&1 || true
  # shellcheck disable=SC2086 # lists of words
  if $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-remove --no-install-recommends $missing \
    >>"$log" 2>&1 </dev/null; then
    rm -f "$log"
    exit 0
  fi
  [ "$attempt" = 2 ] || $as_root apt-get update >>"$log" 2>&1 || true
done
tail -n 5 "$log" >&2
rm -f "$log"
say "apt-get could not install $missing; the tests that need them are skipped"
