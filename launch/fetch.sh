#!/usr/bin/env bash
# Copies a run's results to this machine: its export, or other files of its output folder.
#
#   launch/fetch.sh [settings] [--to=FOLDER] [--what=export,metrics.jsonl,reward_gap.json]
#
# From a bucket it works without the slice; from other storage it goes through worker 0. FOLDER is NAME by default, here.
. "$(dirname "$0")/common.sh"
SETTINGS="$SETTINGS TO WHAT"
: "${TO:=}" "${WHAT:=export}"
parse "$@"
need NAME
check_output
: "${TO:=$NAME}"

run mkdir -p "$TO"
IFS=, read -r -a items <<< "$WHAT"
for item in "${items[@]}"; do
  if [[ $OUTPUT == gs://* ]]; then
    run gcloud storage cp --recursive "${OUTPUT%/}/$item" "$TO/"
  elif [[ $STORAGE == gs://* && $OUTPUT != /* ]]; then
    run gcloud storage cp --recursive "${STORAGE%/}/$OUTPUT/$item" "$TO/"
  else
    need PROJECT ZONE
    tpus tpu-vm scp --recurse "$NAME:$(output_on_worker)/$item" "$TO/" --worker=0 --quiet < /dev/null
  fi
done
