# The init of a cluster node's room. $3: the agents; the folder holds what it installs.
AGENTS=$3
. "$(dirname "$0")/room.sh"
mount --bind "$folder/hosts" /etc/hosts
install -m 644 "$folder/corosync.conf" /etc/corosync/
install -g haclient -m 640 "$folder/authkey" /etc/pacemaker/
install -o hacluster -g haclient -m 600 "$folder/cib.xml" /var/lib/pacemaker/cib/
touch "$folder/prepared"
until ip -brief link show eth0 2>/dev/null | grep --quiet UP; do sleep 0.02; done
corosync -f &
until corosync-cfgtool -s >/dev/null 2>&1; do sleep 0.05; done
pacemakerd -f &
wait
