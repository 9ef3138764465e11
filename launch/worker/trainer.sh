#!/usr/bin/env bash
# On a worker, detached: trains, copies the log, and leaves the exit code in mpo/run/exit. trainer.sh LOGS OUTPUT [arguments]
set -uo pipefail
logs=$1
case $2 in gs://*) output=$2 ;; *) output=$(realpath -m "$2") ;; esac
shift 2
copy() { mkdir -p "$logs" && cp mpo/run/train.log "$logs/$begun-$(hostname).log"; }
begun=$(date -u +%Y%m%dT%H%M%S)
if [ "$logs" != - ]; then
  while sleep 60; do copy; done &
  copier=$!
fi
(cd mpo/code && exec ../venv/bin/python -m mpo_jax.train "$@" "--config.output=$output")
code=$?
echo "---- $(date -u +%FT%TZ) exit code $code"
if [ "$logs" != - ]; then
  kill "$copier"
  copy
fi
echo $code > mpo/run/exit.new
mv mpo/run/exit.new mpo/run/exit
