#!/usr/bin/env bash
# Makes .venv-peers for `run.py --only peers`: all that .venv holds, and torchxrayvision, which the project itself does
# not use. It and its torchvision come without their dependencies, since they would ask for another torch.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
peers="$root/.venv-peers"
[ -x "$peers/bin/python" ] || python -m venv "$peers"
packages() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
echo "import site; site.addsitedir('$(packages "$venv/bin/python")')" >"$(packages "$peers/bin/python")/project.pth"
install=("$peers/bin/pip" install -q --disable-pip-version-check)
"${install[@]}" --no-deps torchxrayvision torchvision==0.15.2
"${install[@]}" imageio pandas requests scikit-image
echo "now: $peers/bin/python $root/examples/benchmarks/run.py --only peers"
