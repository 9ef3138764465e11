#!/usr/bin/env bash
# Trains on this machine, on its GPUs or CPU: makes the environment, and starts the trainer again when it was interrupted.
#
#   launch/local.sh [--extra=cuda12] -- --config=configs/quickstart.py
#
# Exit code 42 of the trainer ("interrupted but saved, start me again") starts it again with --config.checkpoint.resume=auto;
# any other code is this script's. --extra is jax's (cuda12, cuda13); by default cuda12 where there is an NVIDIA driver.
# Ctrl-C ends it for good.
. "$(dirname "$0")/common.sh"
SETTINGS="EXTRA PYTHON"
: "${EXTRA=$(command -v nvidia-smi > /dev/null && echo cuda12 || true)}" "${PYTHON:=python3}"
settings_help() { printf '\nSettings: EXTRA, PYTHON (3.11 or newer), as variables or flags; also --dry-run and --help.\n'; }
parse "$@"
[ -n "$ARGS" ] || fail "The trainer has no arguments: write them after --, as in local.sh -- --config=configs/quickstart.py."
eval "set -- $ARGS"  # ARGS was quoted by parse
cd "$ROOT"

run make --quiet .venv/.runtime PYTHON="$PYTHON"
if [ -n "$EXTRA" ]; then
  run .venv/bin/python -m pip install --quiet "jax[$EXTRA]==$(sed -n 's/^jax==\([^ ]*\).*/\1/p' requirements.txt)"
fi

stopped="" resume=""
trap 'stopped=1' INT
while :; do
  code=0
  if [ -n "$DRY_RUN" ]; then run .venv/bin/python -m mpo_jax.train "$@"; else .venv/bin/python -m mpo_jax.train "$@" || code=$?; fi
  [ $code -eq 42 ] && [ -z "$stopped" ] || exit $code
  say "the trainer was interrupted and has saved: starting it again"
  case $resume in "") resume=1; set -- "$@" --config.checkpoint.resume=auto ;; esac
done
