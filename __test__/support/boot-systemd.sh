#!/bin/sh
# boot-systemd.sh <units> <configuration> <node> <main.js>: boots systemd as process 1 of namespaces that the caller made
# (unshare --pid --mount --cgroup --uts --ipc), with nothing but the units of Convey, as installed but for the program,
# its user and the watchdog's time.
set -e
units=$1 configuration=$2 node=$3 main=$4
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/lock /run/conf
cp "$configuration" /run/conf/convey.toml
chmod -R a+rX /run/conf
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/unified
mount -t cgroup2 none /sys/fs/cgroup/unified
# A program below /tmp would not be seen.
case $main in
/tmp/* | /var/tmp/*) tmp='/^PrivateTmp=/d' ;;
*) tmp='' ;;
esac
for unit in convey.service run-conveybpf.mount; do
    sed -e "s#/usr/bin/convey#$node $main#" -e 's#/etc/convey/convey.toml#/run/conf/convey.toml#' \
        -e 's/^User=convey$/User=nobody/' -e 's/^Group=convey$/Group=nogroup/' -e 's/chown convey:convey/chown nobody:nogroup/' \
        -e "$tmp" \
        -e 's/^WatchdogSec=.*/WatchdogSec=10/' -e '/^ProtectHome=/d' -e '/network-online/d' -e '/^StandardError=/d' \
        -e 's/^\[Unit\]$/[Unit]\nDefaultDependencies=no/' \
        -e 's#^\[Service\]$#[Service]\nStandardError=append:/run/conf/log#' "$units/$unit" >"/run/systemd/system/$unit"
done
printf '[Unit]\nDefaultDependencies=no\nWants=convey.service\n' >/run/systemd/system/convey-test.target
exec env -i PATH="$PATH" container=convey-test /lib/systemd/systemd --system --unit=convey-test.target
