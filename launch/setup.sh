#!/usr/bin/env bash
# Brings this checkout, its Python environment, the storage and the Hugging Face token to every worker.
#
#   HF_TOKEN=... launch/setup.sh --name=mine --project=P --zone=Z --storage=gs://BUCKET
#
# Copies the files that git tracks, as they are now, uncommitted changes included ("git add" a new file first). May be called
# again, except while a trainer runs. A slice of several workers needs your key in ssh-agent: ssh-add ~/.ssh/google_compute_engine
. "$(dirname "$0")/common.sh"
parse "$@"
need NAME PROJECT ZONE
check_output

# ---- the code
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive=$folder/mpo_jax.tar.gz
git -C "$ROOT" rev-parse --quiet --verify HEAD > /dev/null || fail "$ROOT is not a git checkout: clone the repository with git."
changed=""  # a commit of the tracked files as they are, on no branch; the files stay as they are
[ -n "$DRY_RUN" ] || changed=$(git -C "$ROOT" stash create)
run git -C "$ROOT" archive --format=tar.gz --output="$archive" "${changed:-HEAD}"
tpus tpu-vm scp "$archive" "$NAME:" --worker=all --quiet < /dev/null

# ---- what has to be there to run it: launch/worker/setup.sh does the rest on each worker
busy="if [ -e mpo/code ] && bash mpo/code/launch/worker/alive.sh; then echo error: a trainer runs here. >&2; exit 1; fi"
unpack="rm -rf mpo/code && mkdir -p mpo/code && tar -xzf mpo_jax.tar.gz -C mpo/code"
on all "$busy; $unpack && bash mpo/code/launch/worker/setup.sh $(printf '%q' "$STORAGE")" < /dev/null

# ---- the token: through ssh's stdin into a file that its owner alone may read, where Hugging Face's library looks for it
if [ -z "${HF_TOKEN:-}" ]; then
  say "HF_TOKEN is not set: models that need a licence cannot be loaded."
  exit 0
fi
workers=$(tpus tpu-vm describe "$NAME" --format='value(networkEndpoints.len())')
[ -z "$DRY_RUN" ] || { workers=1; echo "# for each worker, with the token as stdin:"; }
for ((worker = 0; worker < workers; worker++)); do
  keep="umask 077; mkdir -p .cache/huggingface; rm -f .cache/huggingface/token; cat > .cache/huggingface/token"
  on "$worker" "$keep" < <(printf '%s' "$HF_TOKEN")  # printf is bash's own: no process has the token among its arguments
done
