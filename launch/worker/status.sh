#!/usr/bin/env bash
# On a worker: a line (running | exited CODE | lost, and the log's size), then the log after its first OFFSET bytes. status.sh OFFSET
cd ~/mpo/run || exit 1
size=$(stat -c %s train.log)
if [ -e exit ]; then
  echo "exited $(cat exit) $size"
elif bash ../code/launch/worker/alive.sh; then
  echo "running $size"
elif [ -e exit ]; then  # it ended between the two questions
  echo "exited $(cat exit) $size"
else
  echo "lost $size"
fi
head -c "$size" train.log | tail -c +"$(($1 + 1))" | tail -c 100000
