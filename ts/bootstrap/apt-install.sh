#!/bin/sh
# apt-install.sh <package…>: installs Debian packages, as root, without questions and without starting servers.
# Says in a line what could not be had and why, and always exits with 0: nothing depends on a single package.
set -u
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
say() { echo "convey: $*"; }

log=$(mktemp) || exit 0
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
ours="# Made for an installation by Convey's tests; left behind only if that was killed."
cleanup() {
    rm -f "$log"
    if grep -qsxF "$ours" "$policy"; then rm -f "$policy"; fi
}
trap cleanup EXIT
trap 'exit 0' INT TERM HUP

# The lists' lock has no timeout of its own.
apt() {
    tries=0
    until apt-get -y -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold \
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@" >"$log" 2>&1; do
        if ! grep -q 'Could not get lock' "$log" || [ $tries -ge 60 ]; then return 1; fi
        [ $tries -gt 0 ] || say "waiting for another apt-get"
        tries=$((tries + 1))
        sleep 2
    done
}
# The first error is the cause; a warning stands in where apt calls it no error.
why() { grep -m 1 '^E:' "$log" || grep -m 1 '^W:' "$log" || tail -n 1 "$log"; }

apt update && ! grep -q '^[EW]:' "$log" || say "the package lists were not refreshed: $(why)"

# One package that does not exist here must not keep the others away.
wanted=
for package; do
    if apt --simulate --no-install-recommends install "$package"; then
        wanted="$wanted $package"
    else
        say "cannot install $package: $(why)"
    fi
done
[ -n "$wanted" ] || exit 0

# Packages of servers start them when installed; policy-rc.d is Debian's way to say no.
[ -e "$policy" ] || { printf '#!/bin/sh\n%s\nexit 101\n' "$ours" >"$policy" && chmod 755 "$policy"; }
# shellcheck disable=SC2086 # a list of words
apt --no-install-recommends install $wanted || say "the installation failed: $(why)"
exit 0
