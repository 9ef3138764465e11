#!/usr/bin/env bash
# Requests a TPU slice, and waits until it is there.
#
#   launch/create.sh --name=mine --project=P --zone=us-west4-a --topology=v5e:2x4 [--tier=on-demand] [--no-wait]
#
# The request is a "queued resource": it waits in Google's queue until the slice is free, for hours if need be. Ctrl-C ends the
# waiting, not the request.
. "$(dirname "$0")/common.sh"
SWITCHES="--no-wait"
NO_WAIT=""
parse "$@"
need NAME PROJECT ZONE
[ -n "$TOPOLOGY$ACCELERATOR_TYPE" ] || fail "TOPOLOGY is not set: write TOPOLOGY=v5e:2x4, say, or ACCELERATOR_TYPE=v5litepod-8."

# ---- which slice, and the image for its kind of TPU
if [ -z "$ACCELERATOR_TYPE" ]; then
  shape=${TOPOLOGY#*:}
  [[ $TOPOLOGY =~ ^v[0-9]+[a-z]*:[0-9]+(x[0-9]+)+$ ]] || fail "TOPOLOGY=$TOPOLOGY is not known: write v5e:2x4, say."
  chips=$((${shape//x/ * }))
  case ${TOPOLOGY%%:*} in
    v5e) ACCELERATOR_TYPE=v5litepod-$chips ;;
    v6e) ACCELERATOR_TYPE=v6e-$chips ;;
    *) ACCELERATOR_TYPE=${TOPOLOGY%%:*}-$((2 * chips)) ;;  # for these Google counts cores, two per chip
  esac
fi
kind=${ACCELERATOR_TYPE%%-*}
if [ -z "$RUNTIME_VERSION" ]; then
  case $kind in
    v6e) RUNTIME_VERSION=v2-alpha-tpuv6e ;;
    v5litepod) RUNTIME_VERSION=v2-alpha-tpuv5-lite ;;
    v5p) RUNTIME_VERSION=v2-alpha-tpuv5 ;;
    v2 | v3 | v4) RUNTIME_VERSION=tpu-ubuntu2204-base ;;
    *) fail "RUNTIME_VERSION is not set and none is known for '$kind': write the image that Google lists for it." ;;
  esac
fi
case $TIER in
  spot) set -- --spot ;;           # cheapest; may be preempted at any time, after which watch.sh resumes
  on-demand) set -- ;;
  reserved) set -- --reserved ;;   # capacity that the project has reserved
  *) fail "TIER=$TIER is not known: write spot, on-demand or reserved." ;;
esac

# ---- ask
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
set -- "$NAME" --node-id="$NAME" --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" "$@"
if ! tpus queued-resources create "$@" 2> "$messages"; then
  cat "$messages" >&2
  explain "$messages"
  exit 1
fi
cat "$messages" >&2
[ -z "$NO_WAIT" ] || exit 0

# ---- wait
last="" unknown=0
while :; do
  now=$(state)
  [ -z "$DRY_RUN" ] || exit 0
  [ "$now" = "$last" ] || say "$(date +%H:%M:%S) $NAME: $now"
  last=$now
  case $now in
    ACTIVE) exit 0 ;;
    UNKNOWN) unknown=$((unknown + 1)); [ $unknown -lt 10 ] || fail "gcloud has failed ten times, see above: the request may still exist." ;;
    FAILED | SUSPENDING | SUSPENDED | NONE)
      tpus queued-resources describe "$NAME" --format='value(state.failedData.error.message)' > "$messages" 2>&1 || true
      cat "$messages" >&2
      explain "$messages"
      say "error: the request for $NAME ended as $now: remove it with launch/delete.sh, then try again."
      exit 1 ;;
    *) unknown=0 ;;
  esac
  sleep "$INTERVAL"
done
