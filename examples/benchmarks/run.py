"""Runs the benchmarks of this folder and prints how this package compares.

Usage: run.py [--only NAME ...] [--json FILE]. Without --only all run, those that train last; that takes more than an
hour on two cores. Every figure is a ratio of two things measured side by side in one run. --json writes the rows:
name, ratio, limit, n, ours, theirs, unit and what the benchmark adds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from pathlib import Path

import torch
from side_by_side import Row, table

TRAINED = ("peers", "spatial")
NAMES = ("decode", "overhead", "inference", "ranks", "scaling", "memory", "serve", *TRAINED)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE")
    peers = parser.add_argument_group("peers and spatial")
    peers.add_argument("--train", metavar="FILMS", help="folder of films (default: the built-in phantom films)")
    peers.add_argument("--test", metavar="FILMS", help="folder of films, given with --train")
    peers.add_argument("--minutes", type=float, default=3.0, help="training of each network")
    peers.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if (arguments.train is None) != (arguments.test is None):
        parser.error("--train and --test belong together")
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    rows: list[Row] = []
    for name in arguments.only:
        module = importlib.import_module(name)
        options = (arguments.train, arguments.test, arguments.minutes, arguments.threads) if name in TRAINED else ()
        found = module.measure(*options)
        print(f"\n{name}: {module.__doc__.splitlines()[0]}")
        print(getattr(module, "table", table)(found), flush=True)
        rows += [row | {"name": f"{name}: {row['name']}"} for row in found]
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
