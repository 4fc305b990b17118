#!/bin/bash
# A service manager of its own, in namespaces: service_room.sh DIRECTORY. It knows the units in DIRECTORY/units and no
# others: the machine's own would be started in the midst of the machine's files, and clean its /tmp for a start.
set -eu
directory=$1
if [ "${2:-}" != inside ]; then
    mount --make-rprivate /
    # systemd on cgroup version 1 wants a group of its own; on version 2 the namespace suffices.
    group=""
    for base in /sys/fs/cgroup/systemd /sys/fs/cgroup; do
        if [ -w "$base/cgroup.procs" ]; then group=$base/nvmefence-test-$$; break; fi
    done
    [ -n "$group" ] || { echo "no cgroup to work in" >&2; exit 77; }
    mkdir "$group"
    echo $$ > "$group/cgroup.procs"
    exec unshare --fork --pid --mount --uts --ipc --cgroup --net --kill-child --mount-proc -- "$0" "$directory" inside
fi
version1=$(mountpoint -q /sys/fs/cgroup/systemd && echo yes || true)
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/lock
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
if [ -n "$version1" ]; then
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified || true
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
# Every place where systemd finds units and generators of units (systemd.unit(5), systemd.generator(7)).
for place in /etc/systemd /usr/local/lib/systemd /usr/lib/systemd/system /usr/lib/systemd/system-generators \
    /lib/systemd/system /lib/systemd/system-generators /usr/local/share/systemd /var/lib /var/log; do
    [ ! -d "$place" ] || mount -t tmpfs tmpfs "$place"
done
mkdir -p /etc/systemd/system
cp -r "$directory"/units/. /etc/systemd/system/
[ -z "$(find /usr/lib/systemd/system /usr/lib/systemd/system-generators -mindepth 1)" ] || exit 78
exec env -i container=lxc PATH="$PATH" /lib/systemd/systemd --system --unit=room.target --log-level=info \
    --log-target=console >"$directory/manager.log" 2>&1 </dev/null
