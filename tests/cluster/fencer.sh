# The init of a room with pacemaker-fenced alone. $3: the agents, $4: the daemon.
AGENTS=$3
. "$(dirname "$0")/room.sh"
cd /var/lib/pacemaker/cores
umask 026
"$4" --stand-alone --logfile "$folder/pacemaker.log" -V &
wait
