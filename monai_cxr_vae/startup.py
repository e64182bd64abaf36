"""First step of every config on the command line: settings checked, errors in one line."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from monai.bundle import run as bundle_run

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.paths import option, runs_as_bundle
from monai_cxr_vae.transforms import FITS

# Taken by monai.bundle's experiment tracking besides the arguments of `run`.
TRACKING = ("tracking_uri", "experiment_name", "run_name", "is_not_rank0", "save_execute_config")


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _available(value: Any) -> bool:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        return False
    return device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()


COUNT = (lambda v: _integer(v) and v > 0, "a whole number above 0")
POSITIVE = (lambda v: _number(v) and v > 0, "a number above 0")
NATURAL = (lambda v: _integer(v) and v >= 0, "a whole number from 0")
SWITCH = (lambda v: isinstance(v, bool), "True or False")
PATH = (lambda v: isinstance(v, str | Path), "a path (write ./2024 for a folder called 2024)")

# What a top-level setting must be. null is allowed where the config's own default is null.
KNOBS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "image_size": COUNT,
    "latent_size": COUNT,
    "channels": (
        lambda v: isinstance(v, list | tuple) and len(v) > 0 and all(_integer(c) and c > 0 for c in v),
        "a list of whole numbers above 0, as [16,32]",
    ),
    "width": COUNT,
    "stride": COUNT,
    "dataset_dir": PATH,
    "val_dataset_dir": PATH,
    "train_dataset_dir": PATH,
    "output_dir": PATH,
    "cache_dir": PATH,
    "weights": PATH,
    "metrics_csv": PATH,
    "samples": COUNT,
    "val_fraction": (lambda v: _number(v) and 0 < v < 1, "a number between 0 and 1"),
    "device": (lambda v: isinstance(v, str) and _available(v), "cpu, or cuda on a machine that has it"),
    "bits": (lambda v: v in (8, 10, 12, 14, 16), "8, 10, 12, 14 or 16"),
    "batch_size": COUNT,
    "max_epochs": COUNT,
    "val_interval": COUNT,
    "patience": COUNT,
    "learning_rate": POSITIVE,
    "kl_weight": (lambda v: v == "auto" or (_number(v) and v > 0), "auto or a number above 0"),
    "fit": (lambda v: v in FITS, " or ".join(FITS)),
    "augment": SWITCH,
    "resume": SWITCH,
    "skip_unreadable": SWITCH,
    "seed": NATURAL,
    "num_workers": NATURAL,
    "num_threads": COUNT,
    "bf16": SWITCH,
    "timeout": POSITIVE,
    "force": SWITCH,
    "retry_failed": SWITCH,
    "strict_view": SWITCH,
    "manifest_paths": SWITCH,
    "scores": SWITCH,
    "report": SWITCH,
}


def start() -> None:
    """Check the command line of ``monai.bundle run`` and let errors of the user's making end it with one line.

    Does nothing in any other process: Python callers and MONAI Label see exceptions as they are.
    """
    if not runs_as_bundle():
        return
    previous = sys.excepthook

    def one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = input_error(error)
        if cause is None:
            previous(kind, error, trace)
        else:
            print(f"error: {cause}", file=sys.stderr)

    sys.excepthook = one_line
    known = ConfigParser.load_config_files(option("config_file"))
    given = flags(sys.argv[2:])
    for name in option("args_file"):
        given |= ConfigParser.load_config_files(name)
    check_settings(given, known)


def check_ranks() -> None:
    """Refuse to train as one of several processes that nobody has started.

    Raises:
        InputError: there is no process group, and the environment does not describe one.
    """
    if "RANK" not in os.environ and not torch.distributed.is_initialized():
        raise InputError("multi_gpu_train.json is for several processes: start this with torchrun")


def flags(words: list[str], paths: Collection[str] = ()) -> dict[str, Any]:
    """The ``--name value`` and ``--name=value`` pairs of a command line, values as MONAI will read them.

    Those of ``paths`` become paths, whatever they look like: no config takes a path for an expression.
    """
    found: dict[str, Any] = {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals:
                value = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else "True"
            name = name.replace("-", "_")
            found[name] = Path(value) if name in paths else DefaultParseValue(value)
    return found


def check_settings(given: dict[str, Any], known: dict[str, Any]) -> None:
    """Refuse settings that no config knows, and values that no run can use.

    Nested ids (``train#trainer#max_epochs``) and everything that a config file of the user's own defines stay free.

    Raises:
        InputError: naming the nearest known setting, or what the value must be.
    """
    own = set(inspect.signature(bundle_run).parameters) | set(TRACKING)
    for name, value in given.items():
        if "#" in name or "::" in name or name in own:
            continue
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise InputError(f"unknown setting --{name}" + (f"; nearest is --{nearest[0]}" if nearest else ""))
        if name in KNOBS and not (value is None and known[name] is None):
            valid, what = KNOBS[name]
            # "$..." and "@..." are worked out by the config itself
            if not (isinstance(value, str) and value[:1] in "$@%") and not valid(value):
                raise InputError(f"--{name} must be {what}, not {value!r}")


def input_error(error: BaseException | None) -> InputError | None:
    """The error of the user's making behind an exception that frameworks have wrapped."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None
