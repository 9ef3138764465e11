# What every script here shares: the settings, their flags, and `run`. To be sourced; does nothing by itself.
# shellcheck shell=bash disable=SC2034
# Works with the bash 3.2 of macOS: no associative arrays, and no array that may be empty.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")

SETTINGS="NAME PROJECT ZONE TOPOLOGY ACCELERATOR_TYPE RUNTIME_VERSION TIER STORAGE OUTPUT INTERVAL GRACE RETRIES"
settings_help() {
  cat <<'TEXT'

Settings: environment variables, or flags (NAME=mine or --name=mine).
  NAME              name of the slice and of its request: lower-case letters, digits, hyphens
  PROJECT, ZONE     project and zone of Google Cloud
  TOPOLOGY          the slice, spelt as for mpo_jax.plan: v5e:2x4, v6e:4x4, v5p:2x2x2
  ACCELERATOR_TYPE  the slice, spelt as Google does (v5litepod-8); give one of the two
  RUNTIME_VERSION   image of the workers (default: the one for that kind of TPU)
  TIER              spot (default), on-demand or reserved
  STORAGE           gs://BUCKET or SERVER:/EXPORT (NFS), mounted on every worker at ~/storage
  OUTPUT            the run's folder there (default: NAME); or an absolute path that every worker sees; or gs://BUCKET/FOLDER,
                    to which the trainer writes directly
  INTERVAL          seconds between two checks of the slice (default 30)
  GRACE             seconds to wait after a trainer has failed, in case a preemption was the cause (default 90)
  RETRIES           how often watch.sh restarts the trainer after a standstill (default 3)
  HF_TOKEN          Hugging Face token, for gated models; environment only, never a flag
Every script also takes --dry-run (print the commands without running them) and --help.
TEXT
}

: "${NAME:=}" "${PROJECT:=}" "${ZONE:=}" "${TOPOLOGY:=}" "${ACCELERATOR_TYPE:=}" "${RUNTIME_VERSION:=}" "${TIER:=spot}"
: "${STORAGE:=}" "${OUTPUT:=}" "${INTERVAL:=30}" "${GRACE:=90}" "${RETRIES:=3}" "${DRY_RUN:=}"
ARGS=""       # what came after --, quoted for a shell
SWITCHES=""   # a script's own flags without a value; --no-wait sets NO_WAIT=1

exec 3>&1     # commands of a dry run go here, also from within $(...)

say() { echo "$*" >&2; }
fail() { echo "error: $*" >&2; exit 2; }

upper() { printf '%s' "$1" | tr 'a-z-' 'A-Z_'; }

# parse "$@": flags into the settings, which the scripts that this one calls then find in the environment.
parse() {
  local flag key
  while [ $# -gt 0 ]; do
    flag=$1; shift
    case $flag in
      --) [ $# -eq 0 ] || ARGS=$(printf '%q ' "$@"); break ;;
      --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; settings_help; exit 0 ;;
      --dry-run) DRY_RUN=1 ;;
      --*=*)
        key=$(upper "${flag%%=*}"); key=${key#__}
        case " $SETTINGS " in *" $key "*) printf -v "$key" '%s' "${flag#*=}" ;; *) unknown "$flag" ;; esac ;;
      *)
        case " $SWITCHES " in *" $flag "*) key=$(upper "$flag"); printf -v "${key#__}" 1 ;; *) unknown "$flag" ;; esac ;;
    esac
  done
  export NAME PROJECT ZONE TOPOLOGY ACCELERATOR_TYPE RUNTIME_VERSION TIER STORAGE OUTPUT INTERVAL GRACE RETRIES DRY_RUN
}
unknown() { fail "'$1' is not known to $(basename "$0"): see $(basename "$0") --help; arguments of the trainer come after --."; }

# need NAME ZONE ...: the settings that a script cannot do without.
need() {
  local key
  for key in "$@"; do
    [ -n "${!key}" ] || fail "$key is not set: write $key=... before the command, or --$(printf '%s' "$key" | tr 'A-Z_' 'a-z-')=... after it."
  done
}

# run COMMAND ...: prints it under --dry-run, executes it otherwise, without the token in its environment.
run() {
  if [ -n "$DRY_RUN" ]; then
    local word line=""
    for word in "$@"; do
      case $word in
        *\'*) word=$(printf '%q' "$word") ;;
        *[!A-Za-z0-9_./:=,@%+-]*) word="'$word'" ;;
      esac
      line="$line$word "
    done
    echo "${line% }" >&3
  else
    (unset HF_TOKEN; exec "$@")
  fi
}

tpus() { run gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"; }

# on WORKER COMMAND: a command on one worker (0, 1, ...) or on all at once; a single one may read this one's stdin (--quiet: which
# a question of gcloud's would take away from it).
on() { tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2" --quiet; }

# The state of the request: ACTIVE, SUSPENDED, ...; NONE where there is no such request; UNKNOWN where gcloud failed.
state() {
  local rows
  rows=$(tpus queued-resources list --format='value(name.basename(),state.state)') || { echo UNKNOWN; return; }
  printf '%s\n' "$rows" | awk -v name="$NAME" '$1 == name { found = $2 } END { print found ? found : "NONE" }'
}

# Where the run writes: OUTPUT below ~/storage, an absolute path, or a bucket.
check_output() {
  : "${OUTPUT:=$NAME}"
  case $STORAGE in
    "") case $OUTPUT in /* | gs://*) ;; *) fail "STORAGE is not set: write STORAGE=gs://BUCKET or SERVER:/EXPORT, so that the run's checkpoints outlive the slice." ;; esac ;;
    gs://*/?*) fail "STORAGE=$STORAGE names a folder in a bucket: write STORAGE=gs://BUCKET, and the folder as OUTPUT." ;;
    gs://?* | ?*:/*) ;;
    *) fail "STORAGE=$STORAGE is not known: write gs://BUCKET or SERVER:/EXPORT." ;;
  esac
  case $OUTPUT in
    gs://?*/?*) ;;
    *://* | gs:*) fail "OUTPUT=$OUTPUT names no folder in a bucket: write OUTPUT=gs://BUCKET/FOLDER." ;;
  esac
}

# The same, as a path on a worker: relative to its home, absolute, or in a bucket.
output_on_worker() { case $OUTPUT in /* | gs://*) echo "$OUTPUT" ;; *) echo "storage/$OUTPUT" ;; esac; }

# A sentence for what Google's own message, in a file, leaves open.
explain() {
  if grep -qiE 'quota' "$1"; then
    say "error: project $PROJECT has no quota for these TPU chips (tier $TIER) in $ZONE: request quota for the Cloud TPU API in the console under IAM & Admin > Quotas, delete old requests, which count even if they are suspended or failed (gcloud compute tpus queued-resources list), or choose another ZONE or TIER."
  elif grep -qiE 'capacity|stockout|exhausted' "$1"; then
    say "error: no such slice is free in $ZONE: wait, or choose another ZONE, TOPOLOGY or TIER."
  fi
}
