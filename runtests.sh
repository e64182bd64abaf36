#!/usr/bin/env bash
# Set-up, lint and tests. Usage: bash runtests.sh [--quick | --all] [pytest arguments]
#   --quick  only what needs neither training nor foreign programs    --all  the slow tests too
set -euo pipefail
cd "$(dirname "$0")"
source examples/environment.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MONAI_FAIL_ON_DUPLICATE_CONFIG=1
ruff check .
ruff format --check .
mypy
lint-imports
# Two processes on two cores; --dist loadfile keeps a file's shared fixtures in one of them.
python -m pytest -n 2 --dist loadfile "$@"
