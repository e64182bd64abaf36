# Sourced by the scripts of this repository: creates or reuses .venv at its root and installs the project into it.
# Needs Python >= 3.11 with venv; PYTHON names another interpreter, VENV another folder, CONSTRAINTS a file of other pins.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="${VENV:-$root/.venv}" constraints="${CONSTRAINTS:-$root/constraints.txt}"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python >= 3.11 is needed" >&2; exit 1; }
# The stamp saves asking pip again while nothing that it would look at has changed.
stamp="$venv/.installed" now=$(cat "$root/setup.cfg" "$root/pyproject.toml" "$constraints" | cksum)-$root
if [ "$(cat "$stamp" 2>/dev/null)" != "$now" ]; then
    echo "installing into $venv (a few minutes the first time)"
    "$venv/bin/pip" install -q --disable-pip-version-check -c "$constraints" -e "$root[dev,pacs]"
    echo "$now" >"$stamp"
fi
export PATH="$venv/bin:$PATH"
