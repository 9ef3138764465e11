#!/usr/bin/env bash
# On a worker: is its trainer running? The exit status says so. After a reboot the number may be another program's.
pid=$(cat ~/mpo/run/pid 2> /dev/null) && grep -qs launch/worker/trainer.sh "/proc/$pid/cmdline"
