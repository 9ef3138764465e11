#!/usr/bin/env bash
# Starts the trainer on every worker, detached: it keeps running when this connection ends.
#
#   launch/train.sh [settings] [--resume] [--keep-logs] -- --config=configs/llama31.py --config.data.path=PATH
#
# After -- come the arguments of mpo_jax.train. The output folder is set here (STORAGE, OUTPUT).
#   --resume      continue from the newest checkpoint (adds --config.checkpoint.resume=auto)
#   --keep-logs   copy each worker's log to logs/NAME in the storage, every minute and at the end
. "$(dirname "$0")/common.sh"
SWITCHES="--resume --keep-logs"
RESUME="" KEEP_LOGS=""
parse "$@"
need NAME PROJECT ZONE
check_output
[ -n "$ARGS" ] || fail "The trainer has no arguments: write them after --, as in train.sh -- --config=configs/llama31.py."
case $ARGS in
  *--config.output=* | *--config.output\ *) fail "--config.output is set by these scripts: write --output=FOLDER before the --." ;;
esac

wait=0 logs=-
if [ -n "$RESUME" ]; then
  wait=600  # seconds: another worker's trainer may still be saving
  ARGS="$ARGS--config.checkpoint.resume=auto"
fi
if [ -n "$KEEP_LOGS" ]; then
  [ -n "$STORAGE" ] || fail "--keep-logs copies to the storage: write STORAGE=gs://BUCKET or SERVER:/EXPORT."
  logs=storage/logs/$NAME
fi
output=$(output_on_worker)
on all "bash mpo/code/launch/worker/start.sh $wait $(printf '%q' "$logs") $(printf '%q' "$output") $ARGS" < /dev/null
[ -n "$DRY_RUN" ] || say "started; launch/watch.sh with the same settings and arguments follows it, and resumes it after a preemption."
