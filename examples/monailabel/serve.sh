#!/usr/bin/env bash
# Starts MONAI Label with the app of this folder, for this computer only. Usage: serve.sh STUDIES [WORK [OPTION...]]
#   STUDIES  folder of films, or the address of a DICOMweb server      WORK  the server's own folder (default label-work)
#   OPTION   of `monailabel start_server`, such as --port 8123, --conf findings opacity,nodule
# WEIGHTS names another weights file to begin with. LABEL_ENV: see install.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ $# -ge 1 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 1; }
case $1 in http://* | https://*) studies=$1 ;; *) studies=$(realpath "$1") ;; esac
work=${2:-label-work}
shift $(($# < 2 ? $# : 2))
bash "$here/install.sh"
mkdir -p "$work/model"
cp "$here"/{main,guard,isolated,local_only}.py "$work/"
# A copy of the bundle, since training replaces its weights; moved into place when it is whole.
if [ ! -d "$work/model/cxr_vae" ]; then
    rm -rf "$work/new"
    mkdir -p "$work/new/models"
    cp -r "$root/bundle/configs" "$root/bundle/docs" "$root/bundle/LICENSE" "$work/new/"
    cp "${WEIGHTS:-$root/bundle/models/model.pt}" "$work/new/models/model.pt"
    mv "$work/new" "$work/model/cxr_vae"
fi
cd "$work"
export PATH="${LABEL_ENV:-$root/.venv-label}/bin:$PATH"
export MONAI_LABEL_DATASTORE_FILE_EXT='["*.dcm","*.DCM","*.png","*.jpg","*.jpeg","*.nii.gz","*.nii"]'
export MONAI_LABEL_DICOMWEB_SEARCH_FILTER=${MONAI_LABEL_DICOMWEB_SEARCH_FILTER:-'{"Modality":"DX,CR"}'}
export MONAI_LABEL_DICOMWEB_CACHE_PATH=$PWD/dicomweb MONAI_LABEL_DICOMWEB_CACHE_EXPIRY=60
export MONAI_LABEL_SESSION_PATH=$PWD/sessions
options=(--app "$PWD" --studies "$studies" --host 127.0.0.1 --uvicorn_app local_only:app)
exec python -m monailabel.main start_server "${options[@]}" "$@"
