#!/bin/bash
# A machine to follow the documentation on: machine.sh NAME FOLDER MACHINE COMMAND..., in a mount namespace of its own.
# NAME and FOLDER are what a room gives to every script; the COMMAND has them once more if it wants them.
#
# It shows this machine's programs. What an installation and a fence write to are directories of MACHINE, so that the
# documentation's commands work as they are written and leave nothing behind. No drive is there: /dev has no nvme*.
set -eu
machine=$3
shift 3
here=$PWD
root=$machine/root
own="/etc /localdisk /opt /usr/local/share /usr/sbin /var/lib/nvmefence /var/log"
devices="full null ptmx pts random shm tty urandom zero"

show() { # One entry as it is on this machine: directories, links and devices.
    if [ -L "$1" ]; then
        cp --no-dereference "$1" "$root$1"
    elif [ -d "$1" ]; then
        mkdir -p "$root$1"
        mount --rbind "$1" "$root$1"
    elif [ -c "$1" ]; then
        touch "$root$1"
        mount --bind "$1" "$root$1"
    fi
}
show_all() { # All entries of a directory but those of our own and those named after it.
    local place=$1 entry
    shift
    mkdir -p "$root$place"
    for entry in "$place"/*; do
        case " $own $* " in *" $entry "*) ;; *) show "$entry" ;; esac
    done
}

mkdir -p "$root"
mount -t tmpfs -o mode=755 none "$root"
mount --make-unbindable "$root" # or it would be shown within itself
if [ ! -d "$machine/etc" ]; then
    cp --archive /etc "$machine/etc"
    rm -rf "$machine"/etc/nvmefence "$machine"/etc/default/{nvmefence,pacemaker} # this machine's own
fi
show_all "" /dev /usr /var
show_all /usr /usr/local
show_all /usr/local
show_all /var /var/lib
show_all /var/lib
for place in $own; do
    mkdir -p "$machine$place" "$root$place"
    mount --bind "$machine$place" "$root$place"
done
show_all /opt /opt/nvmefence /opt/nvmefence-nnf-report
mkdir -p "$root/.programs" "$root/dev"
mount --bind /usr/sbin "$root/.programs"
mount -t tmpfs -o mode=755 none "$root/dev" # a mount of its own, or systemd would mount the machine's
for device in $devices; do show "/dev/$device"; done
ln -s /proc/self/fd "$root/dev/fd"
ln -s /localdisk "$root/shared"

cd "$root"
mkdir .before
pivot_root . .before
cd "$here"
umount --lazy /.before
rmdir /.before
# What an installation puts there must stay, beside what this machine has.
if [ ! -e /usr/sbin/pivot_root ]; then cp --recursive --symbolic-link /.programs/. /usr/sbin; fi
exec "$@"
