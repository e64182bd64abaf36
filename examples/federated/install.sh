#!/usr/bin/env bash
# Makes or reuses the environment of the federated example: .venv-federated at the root of the repository, or the folder
# that FEDERATED_ENV names. Needs Python >= 3.11 with venv; PYTHON names another interpreter.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
environment=${FEDERATED_ENV:-$root/.venv-federated}
# The stamp saves asking pip again while nothing that it would look at has changed.
stamp="$environment/.installed"
now=$(cat "$here/install.sh" "$here/requirements.txt" "$root/constraints.txt" "$root/setup.cfg" | cksum)-$root
[ "$(cat "$stamp" 2>/dev/null)" != "$now" ] || exit 0
echo "installing into $environment (a few minutes the first time)"
[ -x "$environment/bin/python" ] || "${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python >= 3.11 is needed" >&2; exit 1; }
"$environment/bin/pip" install -q --disable-pip-version-check -c "$root/constraints.txt" -e "$root" -r "$here/requirements.txt"
echo "$now" >"$stamp"
