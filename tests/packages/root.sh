#!/bin/bash
# A machine with a Debian of its own, in namespaces: root.sh FOLDER SYSTEM PACKAGES. SYSTEM is a clean root, which stays
# as it is: what changes goes with the machine. PACKAGES is shown there as /packages. The network is this machine's.
set -eu
folder=$1 system=$2 packages=$3
if [ "${4:-}" != inside ]; then
    mount --make-rprivate /
    # systemd on cgroup version 1 wants a group of its own; on version 2 the namespace suffices.
    group=""
    for base in /sys/fs/cgroup/systemd /sys/fs/cgroup; do
        if [ -w "$base/cgroup.procs" ]; then group=$base/nvmefence-test-$$; break; fi
    done
    [ -n "$group" ] || { echo "no cgroup to work in" >&2; exit 77; }
    mkdir "$group"
    echo $$ > "$group/cgroup.procs"
    exec unshare --fork --pid --mount --uts --ipc --cgroup --kill-child --mount-proc -- "$0" "$@" inside
fi
version1=$(mountpoint -q /sys/fs/cgroup/systemd && echo yes || true)
mkdir -p "$folder/parts"
mount -t tmpfs none "$folder/parts"
mkdir "$folder/parts/upper" "$folder/parts/work" "$folder/parts/root"
root=$folder/parts/root
mount -t overlay overlay -o "lowerdir=$system,upperdir=$folder/parts/upper,workdir=$folder/parts/work" "$root"
mount -t proc none "$root/proc"
mount -t sysfs none "$root/sys" -o ro
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/dev" -o mode=755
for device in full null random tty urandom zero; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts" "$root/packages"
ln -s /proc/self/fd "$root/dev/fd"
mount -t devpts none "$root/dev/pts" -o newinstance,ptmxmode=0666
ln -s pts/ptmx "$root/dev/ptmx"
mount --bind "$packages" "$root/packages"
cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
if [ -n "$version1" ]; then
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd" "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified" || true
else
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi
exec >"$folder/manager.log" 2>&1 </dev/null
cd "$root"
mkdir -p .before
pivot_root . .before
umount --lazy /.before
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=console
