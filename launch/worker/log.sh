#!/usr/bin/env bash
# On a worker: the size of the trainer's log on a line, then the log after its first OFFSET bytes. log.sh OFFSET
cd ~/mpo/run || exit 1
size=$(stat -c %s train.log)
echo "$size"
head -c "$size" train.log | tail -c +"$(($1 + 1))" | tail -c 100000
