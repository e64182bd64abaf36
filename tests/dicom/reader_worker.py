"""Reads every file of a folder in a process of its own with bounded memory, and prints what came of each as JSON.

Usage: python reader_worker.py FOLDER LIMIT_MB
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np

from monai_cxr_vae.errors import FilmError
from monai_cxr_vae.radiograph import read_radiograph


def outcome(path: Path) -> list[str]:
    try:
        film = read_radiograph(path)
    except FilmError as error:
        return ["refused", error.reason, str(error)]
    pixels = film.pixels
    sound = pixels.dtype == np.float32 and pixels.ndim == 2 and pixels.flags.c_contiguous
    sound = sound and bool(np.isfinite(pixels).all()) and float(pixels.min()) >= 0 and float(pixels.max()) <= 1
    return ["read" if sound else "unsound", film.format, " ".join(film.warnings)]


def main() -> None:
    folder, limit = Path(sys.argv[1]), int(sys.argv[2]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcomes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            print(path.name, file=sys.stderr, flush=True)  # the last name tells where a crash happened
            outcomes[str(path.relative_to(folder))] = outcome(path)
    # This program's own: ru_maxrss keeps what the process that started it has used.
    (line,) = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM:")]
    peak = int(line.split()[1]) // 1024
    print(json.dumps({"outcomes": outcomes, "peak_mb": peak}))


if __name__ == "__main__":
    main()
