"""The table of settings: what the value of each can be and what it means; checks every config by it, as first step."""

from __future__ import annotations

import datetime
import difflib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any

from monai_cxr_vae.errors import InputError, causes
from monai_cxr_vae.invocation import option, runs_as_bundle
from monai_cxr_vae.kinds import OBJECTS

_WORKED_OUT = ("$", "@", "%")  # what begins so, MONAI works out: expression, reference, macro

# torch and MONAI are imported where they are needed: `cxr-vae --help` prints this table and waits for neither.


@dataclass(frozen=True)
class Kind:
    """What the value of a setting can be: a test, and the same in words; a list of ``several``, at least so many."""

    check: Callable[[Any], bool]
    words: str
    several: int | None = None

    def allows(self, value: Any) -> bool:
        """Whether a setting may have this value."""
        if self.several is None:
            return self.check(value)
        return isinstance(value, list | tuple) and len(value) >= self.several and all(map(self.check, value))


@dataclass(frozen=True)
class Setting:
    """A plain value at the top level of a config, which a user may set. An ``optional`` one may be null (None)."""

    kind: Kind
    help: str
    optional: bool = False


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_iso_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.datetime.fromisoformat(value))
    except ValueError:
        return False


def _is_viewer_url(value: Any) -> bool:
    from monai_cxr_vae.inference.report import is_viewer_url

    return is_viewer_url(value)


def _is_device(value: Any) -> bool:
    import torch

    try:
        device = torch.device(value) if isinstance(value, str | torch.device) else None
    except RuntimeError:
        return False
    return device is not None and (device.type != "cuda" or (device.index or 0) < torch.cuda.device_count())


COUNT = Kind(lambda v: _is_whole(v) and v > 0, "a whole number above 0")
COUNTS = Kind(COUNT.check, "a list of whole numbers above 0, as [16,32]", several=1)
NATURAL = Kind(lambda v: _is_whole(v) and v >= 0, "a whole number from 0")
POSITIVE = Kind(lambda v: _is_number(v) and v > 0, "a number above 0")
SHARE = Kind(lambda v: _is_number(v) and 0 < v < 1, "a number between 0 and 1")
SWITCH = Kind(lambda v: isinstance(v, bool), "True or False")
PATH = Kind(lambda v: isinstance(v, str | os.PathLike), "a path (write ./2024 for a folder called 2024)")
NAME = Kind(lambda v: isinstance(v, str), "a name")
NAMES = Kind(NAME.check, "a list of names", several=0)
DEVICE = Kind(_is_device, "cpu, or cuda on a machine that has it")
VIEWER_URL = Kind(_is_viewer_url, "an address with {study}, as https://pacs.example/viewer?StudyInstanceUIDs={study}")
TIME = Kind(_is_iso_time, "an ISO time as 2026-01-31T09:30:00+01:00")
KL_WEIGHT = Kind(lambda v: v == "auto" or POSITIVE.check(v), "auto or a number above 0")


def _one_of(*values: Any, several: int | None = None) -> Kind:
    *others, last = map(str, values)
    words = f"{', '.join(others)} or {last}"
    return Kind(lambda v: v in values, words if several is None else f"a list of {words}", several)


SETTINGS: dict[str, Setting] = {
    "dataset_dir": Setting(
        PATH,
        "Folder of films; for training and evaluation also a list (csv, json, txt). Unless given, phantom films, made "
        "on first use.",
    ),
    "val_dataset_dir": Setting(
        PATH, "Folder or list of validation films. Unless given, some of `dataset_dir`.", optional=True
    ),
    "val_fraction": Setting(SHARE, "Share of the patients that validate where no folder is given."),
    "train_dataset_dir": Setting(
        PATH, "Training films, to fit the baselines on. Unless given, the evaluated ones, which flatters them.", True
    ),
    "output_dir": Setting(PATH, "Where results go. A training unless told otherwise makes a folder below `./output`."),
    "run_name": Setting(
        NAME,
        "Name of a run, as MONAI's client and tracking give it; unless told otherwise, its folder's.",
        optional=True,
    ),
    "cache_dir": Setting(PATH, "Where decoded films are kept. Unless given, `~/.cache/monai_cxr_vae`.", optional=True),
    "weights": Setting(
        PATH, "Weights file, or name of shipped weights, to use, or in a training to go on from.", optional=True
    ),
    "metrics_csv": Setting(PATH, "Log of the training, for `curves.png`.", optional=True),
    "samples": Setting(
        COUNT,
        "Films to draw for each of three seeds and to measure beside real ones; needs `train_dataset_dir` and the "
        "extra `samples`.",
        optional=True,
    ),
    "preset": Setting(NAME, "Named set of defaults for the network. Unless given, `vector`.", optional=True),
    "image_size": Setting(COUNT, "Pixels along a side of the network's square. Unless given, the preset's.", True),
    "latent_size": Setting(COUNT, "Number of latent values. Unless given, the preset's.", optional=True),
    "channels": Setting(COUNTS, "Widths of the network's convolutions. Unless given, the preset's.", optional=True),
    "width": Setting(COUNT, "Units of the network's hidden layers. Unless given, the network's own.", optional=True),
    "stride": Setting(
        COUNT, "Pixels along a side of a cell of latents, spatial presets only. Unless given, the preset's.", True
    ),
    "groups": Setting(
        COUNT, "Sets of components that cells share, spatial presets only. Unless given, the preset's.", optional=True
    ),
    "codes": Setting(COUNT, "Number of codes, hierarchical preset only. Unless given, the preset's.", optional=True),
    "fit": Setting(
        _one_of("stretch", "letterbox"),
        "How a film becomes square: fill it, or keep the proportions and pad. Unless given, `stretch`.",
        optional=True,
    ),
    "augment": Setting(SWITCH, "Vary position, shape and exposure of the training films a little."),
    "level": Setting(_one_of("film", "details"), "Level of the hierarchical preset whose prior learns."),
    "left_out": Setting(NAMES, "Families of faults and findings that the critic shall not see."),
    "batch_size": Setting(
        COUNT,
        "Films per step, of all processes together. In a folder run, films per pass of the network: unless given, 32 "
        "on an accelerator, one by one on a CPU.",
    ),
    "max_epochs": Setting(COUNT, "Passes over the training films."),
    "learning_rate": Setting(POSITIVE, "Highest rate of the one cycle."),
    "kl_weight": Setting(KL_WEIGHT, "Weight of the KL term; `auto` follows the reconstruction error."),
    "val_interval": Setting(COUNT, "Epochs from one validation to the next."),
    "patience": Setting(COUNT, "End after so many epochs without a better validation.", optional=True),
    "resume": Setting(SWITCH, "Go on with the run in `output_dir`."),
    "seed": Setting(NATURAL, "Of everything random; the same seed repeats a run."),
    "bf16": Setting(SWITCH, "Run the network in bfloat16 where the device has it."),
    "device": Setting(DEVICE, "Where the network runs. Unless given, a GPU if there is one, else the CPU."),
    "num_workers": Setting(NATURAL, "Processes that read films. In a folder run, 0 takes one per core, at most 4."),
    "num_threads": Setting(COUNT, "CPU threads of each process. Unless given, one per core.", optional=True),
    "bits": Setting(
        _one_of(8, 10, 12, 14, 16),
        "Depth of 16-bit PNG films, so that those of one set are scaled alike. Unless given, what each film's maximum "
        "needs.",
        optional=True,
    ),
    "skip_unreadable": Setting(
        SWITCH, "Go on without films that cannot be read; `unreadable.csv` in the output folder lists them either way."
    ),
    "objects": Setting(
        _one_of(*OBJECTS, several=1),
        f"What to write. {'; '.join(f'{name}: {meaning}' for name, meaning in OBJECTS.items())}.",
    ),
    "bits_stored": Setting(_one_of(12, 16), "Depth of reconstructions."),
    "scores": Setting(
        SWITCH,
        "Score the films. Unless given, whenever the weights can. False takes the weights that reconstruct best.",
        optional=True,
    ),
    "created": Setting(
        TIME,
        "When DICOM objects say they were made, for comparing runs byte for byte. Unless given, for each film the time "
        "of its first result in `output_dir`.",
        optional=True,
    ),
    "mark": Setting(SWITCH, "Put a caption below DICOM images that says that they are no films of a patient."),
    "report": Setting(SWITCH, "Write `report.html`, which shows the films."),
    "report_patients": Setting(SWITCH, "Show Patient ID and Accession Number in `report.html`, to search by."),
    "viewer_url": Setting(
        VIEWER_URL,
        "Address of a film in the site's viewer, for links in `report.html`: `{study}`, `{series}` and `{instance}` "
        "stand for UIDs.",
        optional=True,
    ),
    "timeout": Setting(POSITIVE, "Seconds per film."),
    "memory_limit": Setting(POSITIVE, "GiB that a process may take beyond what it starts with; null: any.", True),
    "force": Setting(SWITCH, "Do everything again."),
    "retry_failed": Setting(SWITCH, "Try failed films again."),
    "strict_view": Setting(SWITCH, "Skip films that nothing says are frontal."),
    "manifest_paths": Setting(SWITCH, "Put input paths, which may name patients, into the manifest and the report."),
}


def start() -> None:
    """First step of every config: check its settings, wherever they come from.

    In ``python -m monai.bundle`` errors of the user's making end the program with one line from here on. Python callers
    and MONAI Label see exceptions as they are; :func:`input_error` finds the line in them.

    Raises:
        InputError: see :func:`check_settings`.
    """
    from monai.bundle import ConfigParser

    known: Collection[str] = SETTINGS.keys()
    if runs_as_bundle():
        known = ConfigParser.load_config_files(option("config_file"))
        previous = sys.excepthook

        def one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            cause = input_error(error)
            if cause is None:
                previous(kind, error, trace)
            else:
                print(f"error: {cause}", file=sys.stderr)

        sys.excepthook = one_line
    check_settings(_config_of_caller(), known)


def check_ranks() -> None:
    """Refuse to train as one of several processes that nobody has started.

    Raises:
        InputError: there is no process group, and the environment does not describe one.
    """
    import torch

    if "RANK" not in os.environ and not torch.distributed.is_initialized():
        raise InputError("multi_gpu_train.json is for several processes: start this with torchrun")


def check_settings(config: dict[str, Any], known: Collection[str] = SETTINGS.keys()) -> None:
    """Refuse values that no run can use, and mistyped names.

    A plain value at the top level is mistyped if its name is neither known nor referred to by anything in the config.
    Nested values are free, and so are names that begin with ``_`` and lists of nothing (a step left out).

    Raises:
        InputError: naming what the value must be, or the nearest setting.
    """
    used = _references(config)
    for name, value in config.items():
        if not is_plain(value):
            continue
        if name not in known and name not in used and not name.startswith("_") and value != []:
            raise unknown_setting(name, [other for other in used if other in SETTINGS or is_plain(config.get(other))])
        if name in SETTINGS:
            check_value(name, value)


def check_value(name: str, value: Any) -> None:
    """Refuse a value that the setting cannot have.

    Raises:
        InputError: saying what it must be.
    """
    setting = SETTINGS[name]
    if not (value is None and setting.optional) and not setting.kind.allows(value):
        raise InputError(f"--{name} must be {setting.kind.words}, not {value!r}")


def unknown_setting(name: str, known: Collection[str]) -> InputError:
    """The error that answers a name with the nearest of those that are known."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return InputError(f"unknown setting --{name}" + (f"; nearest is --{nearest[0]}" if nearest else ""))


def is_plain(value: Any) -> bool:
    """Whether a value of a config is what it says: no expression, reference or component, nor a list of such."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, str):
        return not value.startswith(_WORKED_OUT)
    return value is None or isinstance(value, Real | os.PathLike)


def settings_of(files: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """The settings that configs have together, the later on top of the earlier, with the defaults that stand there.

    Those that nothing refers to are left out.
    """
    config: dict[str, Any] = {}
    for file in files:
        config |= json.loads(Path(file).read_text())
    used = _references(config)
    return {name: config[name] for name in SETTINGS if name in config and name in used}


def read_setting(name: str, words: str | list[str]) -> Any:
    """The value that words of a command line stand for, as ``monai.bundle`` reads them, where it takes a list too.

    A path is a path whatever it looks like: as a :class:`~pathlib.Path` no config takes it for an expression.
    """
    if SETTINGS[name].kind is PATH:
        return Path(str(words))
    if isinstance(words, str):
        return read_word(words)
    values = [read_word(word) for word in words]
    return values[0] if len(values) == 1 and isinstance(values[0], list | tuple | None) else values


def read_word(word: str) -> Any:
    """The Python value of a word of the command line, as ``monai.bundle`` reads it."""
    from fire.parser import DefaultParseValue

    return DefaultParseValue(word)


def input_error(error: BaseException) -> InputError | None:
    """The error of the user's making behind an exception that frameworks have wrapped."""
    return next((cause for cause in causes(error) if isinstance(cause, InputError)), None)


def _references(config: dict[str, Any]) -> set[str]:
    """Names at the top level that something in a config refers to."""
    return {name for text in _expressions(config) for name in re.findall(r"@[#:]*(\w+)", text)}


def _expressions(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.startswith(_WORKED_OUT):
            yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _expressions(part)


def _config_of_caller() -> dict[str, Any]:
    """The config whose expression is at work: MONAI gives expressions no name for it, but it stands on the stack."""
    from monai.bundle import ConfigParser

    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return dict(parser.get())
        frame = frame.f_back
    return {}
