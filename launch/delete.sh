#!/usr/bin/env bash
# Deletes the slice and its request. Whatever still trains there ends; the storage stays.
#
#   launch/delete.sh --name=mine --project=P --zone=Z [--yes]        --yes: do not ask
. "$(dirname "$0")/common.sh"
SWITCHES="--yes"
YES=""
parse "$@"
need NAME PROJECT ZONE

if [ -z "$DRY_RUN" ] && [ "$(state)" = NONE ]; then
  say "There is no slice or request named $NAME in $ZONE."
  exit 0
fi
set --
[ -z "$YES" ] || set -- --quiet
tpus queued-resources delete "$NAME" --force ${1+"$1"}  # --force: the slice as well
