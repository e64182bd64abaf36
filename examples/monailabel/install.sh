#!/usr/bin/env bash
# Makes or reuses the environment of the MONAI Label example: .venv-label at the root of the repository, or the folder
# that LABEL_ENV names. Needs Python >= 3.11 with venv; PYTHON names another interpreter.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
label=${LABEL_ENV:-$root/.venv-label}
# The stamp saves asking pip again while nothing that it would look at has changed.
stamp="$label/.installed" now=$(cat "$here/install.sh" "$here/requirements.txt" | cksum)-$root
[ "$(cat "$stamp" 2>/dev/null)" != "$now" ] || exit 0
echo "installing into $label (a few minutes the first time)"
[ -x "$label/bin/python" ] || "${PYTHON:-python3}" -m venv "$label"
"$label/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python >= 3.11 is needed" >&2; exit 1; }
install=("$label/bin/pip" install -q --disable-pip-version-check)
"${install[@]}" -r "$here/requirements.txt"
# Without their dependencies: they ask for an older numpy, another torch and parts of the server that are not used here.
# This torchvision is the last one that can be imported beside any torch.
"${install[@]}" --no-deps monailabel==0.8.5 pydicom-seg==0.4.1 torchvision==0.15.2
"${install[@]}" --no-deps -e "$root"
echo "$now" >"$stamp"
