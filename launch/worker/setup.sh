#!/usr/bin/env bash
# On a worker: Python, the packages of requirements-gcs.txt for TPUs, and the storage at ~/storage. setup.sh STORAGE
# What is there already stays, so that a second call takes seconds.
set -euo pipefail
storage=${1:-}
cd ~/mpo

# ---- Python: the images carry 3.10 and jax needs 3.11, which uv brings
export PATH="$HOME/.local/bin:$PATH"
command -v uv > /dev/null || python3 -m pip install --user --quiet uv==0.13.8
[ -e venv ] || uv venv --quiet --python 3.11 venv

# ---- the tested versions, and libtpu by the extra of the same jax
jax=$(sed -n 's/^jax==\([^ ]*\).*/\1/p' code/requirements.txt)
uv pip install --quiet --python venv/bin/python -r code/requirements-gcs.txt "jax[tpu]==$jax"
venv/bin/python -c 'import sys, jax; print("python", sys.version.split()[0], "jax", jax.__version__)'

# ---- the storage
mkdir -p ~/storage
ln -sfn ~/storage code/storage  # so that --config.data.path=storage/FILE is a path of the trainer
if [ -z "$storage" ] || mountpoint -q ~/storage; then exit 0; fi
install() { sudo apt-get -o DPkg::Lock::Timeout=600 -qq update && sudo apt-get -o DPkg::Lock::Timeout=600 -qq install -y "$1"; }
case $storage in
  gs://*)
    if ! command -v gcsfuse > /dev/null; then
      key=/usr/share/keyrings/cloud.google.asc
      curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" > /dev/null
      echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
      install gcsfuse
    fi
    # A checkpoint is complete when its folder gets its name, so folders must be renamable; and no worker may go on believing
    # for a minute that a file of another one is not there.
    bucket=${storage#gs://}
    gcsfuse --implicit-dirs --rename-dir-limit=200000 --metadata-cache-ttl-secs=0 "${bucket%/}" ~/storage ;;
  *)
    command -v mount.nfs > /dev/null || install nfs-common
    sudo mount -t nfs "$storage" ~/storage ;;
esac
