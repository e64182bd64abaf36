#!/usr/bin/env bash
# Installs MLflow's client with an SQLite store into the folder that MLFLOW_PACKAGES names, in the cache unless told
# otherwise: beside the environment and not in it, since MONAI imports what it finds there in every process.
# PYTHON names the interpreter; prints the folder, and does nothing else where it is there.
set -euo pipefail
packages=${MLFLOW_PACKAGES:-${XDG_CACHE_HOME:-$HOME/.cache}/monai_cxr_vae/mlflow-3.17.2}
echo "$packages"
[ ! -d "$packages" ] || exit 0
mkdir -p "$(dirname "$packages")"
scratch=$(mktemp -d -p "$(dirname "$packages")")
trap 'rm -rf "$scratch"' EXIT
pins=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)/constraints.txt
"${PYTHON:-python3}" -m pip install -q --disable-pip-version-check --target "$scratch/packages" -c "$pins" \
    mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1
mv "$scratch/packages" "$packages"
