#!/usr/bin/env bash
# Follows worker 0's log and every worker's state, and resumes the run after a preemption.
#
#   launch/watch.sh [settings] [--keep-logs] [-- ARGUMENTS]        the same settings and arguments as train.sh
#
# Slice preempted: deletes the request, requests a new slice, sets it up, and starts with --config.checkpoint.resume=auto.
# Trainer ended with code 42 ("interrupted but saved, start me again"): starts it again. With code 44 (a standstill): starts it
# again too, up to RETRIES times. With code 0: done.
# With any other code: stops; the slice keeps running, and costing, until you delete it. Without ARGUMENTS it only watches.
# It keeps no state here, so you can stop and restart it at any time. While it does not run, nothing is resumed.
. "$(dirname "$0")/common.sh"
SWITCHES="--keep-logs"
KEEP_LOGS=""
parse "$@"
need NAME PROJECT ZONE
check_output
case $RETRIES in "" | *[!0-9]*) fail "RETRIES=$RETRIES is not a number: write RETRIES=3, or 0 to stop at the first standstill." ;; esac
eval "set -- $ARGS"  # ARGS was quoted by parse

offset=0      # bytes of the log that were shown
seen=""       # whether this run was ever seen, so that a missing slice means one that was preempted
failures=0    # attempts in a row
standstills=0 # after which the trainer was started again
waiting=""    # for which trainers, so that it is said once

create() { offset=0; "$HERE/delete.sh" --yes && "$HERE/create.sh"; }
start() { "$HERE/train.sh" --resume ${KEEP_LOGS:+--keep-logs} -- "$@"; }

# attempt SENTENCE STEPS: one more attempt to get the run going; a slice may be lost again on the way, a mistake stays.
attempt() {
  say "$(date +%H:%M:%S) $1"
  seen=1
  [ -n "$ARGS" ] || fail "$NAME needs to be resumed: give watch.sh the trainer's arguments after --, and it resumes the run."
  case $2 in
    create) create && "$HERE/setup.sh" && start "${@:3}" ;;
    setup) "$HERE/setup.sh" && start "${@:3}" ;;
    start) start "${@:3}" ;;
  esac && { failures=0; return; }
  failures=$((failures + 1))
  [ $failures -lt 3 ] || fail "$NAME could not be resumed in three attempts, see above: the slice may still exist, and cost money."
}

# Asks every worker for a line, shows what is new in worker 0's log, and acts on both.
look() {
  local answer=""
  if ! answer=$(on all "if [ -e mpo/code ]; then bash mpo/code/launch/worker/status.sh; else echo worker \$(hostname) none; fi" < /dev/null 2> "$messages"); then
    if taken; then attempt "the slice was preempted: requesting another" create "$@"; return; fi
    say "$(date +%H:%M:%S) not every worker answers: $(tail -n 1 "$messages")"
    return
  fi
  show_log
  [ -z "$DRY_RUN" ] || return 0
  states=$(printf '%s\n' "$answer" | sed -n 's/^worker //p')
  [ -n "$states" ] || return 0
  if among running; then
    seen=1
    wait_for_the_others
  elif among lost; then attempt "a worker was restarted: setting it up again" setup "$@"
  elif among none; then
    [ -n "$seen" ] || among exited || fail "No trainer was started on $NAME: launch/setup.sh, then launch/train.sh."
    attempt "the slice is new: setting it up" setup "$@"
  elif among "exited 44"; then
    standstills=$((standstills + 1))
    [ $standstills -le "$RETRIES" ] || fail "The trainer came to a standstill $standstills times (exit code 44): its log is above and says which process was behind; the slice still exists, and still costs money."
    attempt "the trainer came to a standstill: starting it again ($standstills of at most $RETRIES times)" start "$@"
  elif among "exited 42"; then attempt "the trainer was interrupted and has saved: starting it again" start "$@"
  elif among "exited [1-9]"; then seen=1; failed
  else say "The run is done: launch/fetch.sh copies its export here, launch/delete.sh deletes the slice."; exit 0
  fi
}

show_log() {
  local log
  log=$(on 0 "if [ -e mpo/run/train.log ]; then bash mpo/code/launch/worker/log.sh $offset; fi" < /dev/null 2> "$messages") || return 0
  [ -n "$log" ] && [ -z "$DRY_RUN" ] || return 0
  [ "${log%%$'\n'*}" = "$offset" ] || printf '%s\n' "${log#*$'\n'}"
  offset=${log%%$'\n'*}
}

# Whether a worker said this. `states` has one line per worker: its name, then what it said.
among() { grep -q "^[^ ]* $1" <<< "$states"; }

# A trainer that has ended makes the others end, within hosts.timeout: none is started while one of them is still there.
wait_for_the_others() {
  local ended
  ended=$(grep -v ' running$' <<< "$states" | paste -sd ';' - | sed 's/;/; /g') || true
  if [ -z "$ended" ]; then failures=0
  elif [ "$ended" != "$waiting" ]; then say "$(date +%H:%M:%S) waiting for the other workers' trainers to end: $ended"
  fi
  waiting=$ended
}

# A preemption kills the trainers first, so news of it may come after their exit codes.
failed() {
  sleep "$GRACE"
  if [ "$(state)" = ACTIVE ] && ! taken; then
    fail "The trainer ended with $(exit_codes): its log is above, and in mpo/run/train.log on each worker; the slice still exists, and still costs money."
  fi
}

# "exit code 7", or "exit codes 1 (on the worker t1v-n-1-w-3), 134 (on 3 workers)".
exit_codes() {
  awk '
    !($3 in count) { codes[++n] = $3 }
    { count[$3]++; name[$3] = $1 }
    END {
      if (n == 1) { print "exit code " codes[1]; exit }
      printf "exit codes "
      for (i = 1; i <= n; i++) {
        code = codes[i]
        printf "%s%s (on %s)", (i > 1 ? ", " : ""), code, (count[code] == 1 ? "the worker " name[code] : count[code] " workers")
      }
    }' <<< "$states"
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
    SUSPENDED) attempt "the slice was preempted: requesting another" create "$@" ;;
    NONE) attempt "the request is gone: requesting again" create "$@" ;;
    FAILED) fail "The request for $NAME has failed: launch/delete.sh, then launch/create.sh, which says why." ;;
    UNKNOWN) unknown=$((unknown + 1)); [ $unknown -lt 10 ] || fail "gcloud has failed ten times, see above: the run may still be going." ;;
  esac
  sleep "$INTERVAL"
done
