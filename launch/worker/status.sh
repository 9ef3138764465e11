#!/usr/bin/env bash
# On a worker: one line about its trainer, "worker HOSTNAME none | running | exited CODE | lost". Lost: it left no code, as in a reboot.
run=~/mpo/run
if [ ! -e $run/pid ]; then
  said=none
elif [ ! -e $run/exit ] && bash ~/mpo/code/launch/worker/alive.sh; then
  said=running
elif [ -e $run/exit ]; then  # also where it ended between the two questions
  said="exited $(cat $run/exit)"
else
  said=lost
fi
echo "worker $(hostname) $said"
