# What every room starts with; sourced by the script that is its init. $1: the room's name, $2: its folder.
name=$1 folder=$2
hostname "$name"
ip link set lo up

# A Pacemaker that panics resets the machine through these, and there is but one kernel. What it tries next, the system
# call, ends the room alone.
for trigger in /proc/sysrq-trigger /proc/sys/kernel/sysrq; do
    if [ -e "$trigger" ]; then mount --bind /dev/null "$trigger"; fi
done

# State, logs and locks of the room alone, gone with it.
for place in /dev/shm /run /var/lib/pacemaker /var/lib/corosync /var/lib/pcsd /var/log/pacemaker \
    /var/log/corosync /etc/corosync /etc/pacemaker; do
    if [ ! -d "$place" ]; then continue; fi
    mount -t tmpfs -o mode=755 none "$place"
done
chmod 1777 /dev/shm
install -d -o hacluster -g haclient -m 750 /var/lib/pacemaker/{blackbox,cib,cores,pengine}
install -d -o hacluster -g haclient -m 770 /run/crm /var/log/pacemaker
mkdir -p /run/lock /run/cluster
if [ -d /etc/corosync ]; then mkdir /etc/corosync/uidgid.d; fi

# Pacemaker takes agents from /usr/sbin only. The room's shows this machine's and, beside them, the agents under test:
# paths, with colons between them.
mkdir -p "$folder/sbin"
mount --bind /usr/sbin "$folder/sbin"
mount -t tmpfs -o mode=755 none /usr/sbin
cp --recursive --symbolic-link "$folder/sbin/." /usr/sbin
IFS=: read -r -a agents <<<"$AGENTS"
ln --symbolic --force "${agents[@]}" /usr/sbin/
