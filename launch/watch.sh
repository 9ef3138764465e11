#!/usr/bin/env bash
# Follows worker 0's log and the slice's state, and resumes the run after a preemption.
#
#   launch/watch.sh [settings] [--keep-logs] [-- ARGUMENTS]        the same settings and arguments as train.sh
#
# Slice taken away: deletes the request, asks again, sets up, and starts with --config.checkpoint.resume=auto.
# Trainer ended with code 42 ("interrupted but saved, start me again"): starts it again. With code 0: done.
# With any other code: stops, and leaves the slice (and its price) to you. Without ARGUMENTS it only looks.
# Nothing is kept here: end it and start it again when you like. While it does not run, nothing is resumed.
. "$(dirname "$0")/common.sh"
SWITCHES="--keep-logs"
KEEP_LOGS=""
parse "$@"
need NAME PROJECT ZONE
check_output
eval "set -- $ARGS"  # ARGS was quoted by parse

offset=0      # bytes of the log that were shown
seen=""       # whether this run was ever seen, so that a missing slice means one that was taken away
failures=0    # attempts in a row

create() { offset=0; "$HERE/delete.sh" --yes && "$HERE/create.sh"; }
start() { "$HERE/train.sh" --resume ${KEEP_LOGS:+--keep-logs} -- "$@"; }

# attempt SENTENCE STEPS: one more attempt to get the run going; a slice may be lost again on the way, a mistake stays.
attempt() {
  say "$(date +%H:%M:%S) $1"
  seen=1
  [ -n "$ARGS" ] || fail "$NAME needs to be resumed: give watch.sh the trainer's arguments after --, and it does that."
  case $2 in
    create) create && "$HERE/setup.sh" && start "${@:3}" ;;
    setup) "$HERE/setup.sh" && start "${@:3}" ;;
    start) start "${@:3}" ;;
  esac && { failures=0; return; }
  failures=$((failures + 1))
  [ $failures -lt 3 ] || fail "$NAME could not be resumed in three attempts, see above: the slice may still be there, and cost."
}

# What worker 0 says: a first line (none | running | lost | exited CODE, and the log's size), then what is new in the log.
look() {
  local answer first size
  if ! answer=$(on 0 "if [ -e mpo/run/pid ]; then bash mpo/code/launch/worker/status.sh $offset; else echo none 0; fi" < /dev/null 2> "$messages"); then
    if taken; then attempt "the slice was taken away: asking for another" create "$@"; return; fi
    say "$(date +%H:%M:%S) worker 0 does not answer: $(tail -n 1 "$messages")"
    return
  fi
  [ -z "$DRY_RUN" ] || return 0
  first=${answer%%$'\n'*}
  size=${first##* }
  [ "$size" = "$offset" ] || printf '%s\n' "${answer#*$'\n'}"
  offset=$size
  case $first in
    running*) seen=1; failures=0 ;;
    "exited 0 "*) say "The run is done: launch/fetch.sh copies its export here, launch/delete.sh ends the slice."; exit 0 ;;
    "exited 42 "*) attempt "the trainer was interrupted and has saved: starting it again" start "$@" ;;
    exited*) seen=1; failed "$(echo "$first" | cut -d' ' -f2)" ;;
    lost*) attempt "the worker was restarted: setting it up again" setup "$@" ;;
    none*)
      [ -n "$seen" ] || fail "No trainer was started on $NAME: launch/setup.sh, then launch/train.sh."
      attempt "the slice is new: setting it up" setup "$@" ;;
  esac
}

# A slice that is being taken away kills its trainers first, so news of that may come after their exit code.
failed() {
  sleep "$GRACE"
  if [ "$(state)" = ACTIVE ] && ! taken; then
    fail "The trainer ended with exit code $1: its log is above, and in mpo/run/train.log on each worker; the slice is still there, and costs."
  fi
}

# Whether the slice is gone although its request still says ACTIVE.
taken() {
  case $(tpus tpu-vm describe "$NAME" --format='value(state)' 2> /dev/null) in PREEMPTED | TERMINATED) ;; *) return 1 ;; esac
}

messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
last="" unknown=0
while :; do
  now=$(state)
  if [ -n "$DRY_RUN" ]; then
    look
    echo "# and after a preemption:"
    [ -z "$ARGS" ] || { create; "$HERE/setup.sh"; start "$@"; }
    exit 0
  fi
  [ "$now" != NONE ] || [ -n "$seen" ] || fail "There is no slice or request named $NAME in $ZONE: launch/create.sh asks for one."
  [ "$now" = "$last" ] || say "$(date +%H:%M:%S) $NAME: $now"
  last=$now
  [ "$now" = UNKNOWN ] || unknown=0
  case $now in
    ACTIVE) look "$@" ;;
    SUSPENDED) attempt "the slice was taken away: asking for another" create "$@" ;;
    NONE) attempt "the request is gone: asking again" create "$@" ;;
    FAILED) fail "The request for $NAME has failed: launch/delete.sh, then launch/create.sh, which says why." ;;
    UNKNOWN) unknown=$((unknown + 1)); [ $unknown -lt 10 ] || fail "gcloud has failed ten times, see above: the run may still go on." ;;
  esac
  sleep "$INTERVAL"
done
