#!/usr/bin/env bash
# On a worker: starts trainer.sh, detached. start.sh WAIT LOGS OUTPUT [trainer's arguments]
# Waits up to WAIT seconds for a former trainer to end.
set -euo pipefail
wait=$1 logs=$2 output=$3
shift 3
cd
for ((second = 0; second < wait; second++)); do
  bash mpo/code/launch/worker/alive.sh || break
  sleep 1
done
if bash mpo/code/launch/worker/alive.sh; then
  echo "error: a trainer runs on $(hostname) already: launch/watch.sh follows it." >&2
  exit 1
fi
case $output in
  storage/*) mountpoint -q storage || { echo "error: no storage is mounted on $(hostname): launch/setup.sh mounts it." >&2; exit 1; } ;;
esac
mkdir -p mpo/run
rm -f mpo/run/exit
echo "---- $(date -u +%FT%TZ) starting on $(hostname)" >> mpo/run/train.log
nohup setsid bash mpo/code/launch/worker/trainer.sh "$logs" "$output" "$@" >> mpo/run/train.log 2>&1 < /dev/null &
echo $! > mpo/run/pid
