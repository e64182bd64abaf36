"""The command line ``cxr-vae``: a thin face over the bundle's configs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.paths import bundle_root
from monai_cxr_vae.settings import (
    COUNT,
    NATURAL,
    PATH,
    SETTINGS,
    SWITCH,
    check_value,
    input_error,
    is_plain,
    read_setting,
    read_word,
    settings_of,
    unknown_setting,
)
from monai_cxr_vae.version import __version__

# Further names of settings, beside their own.
SHORT = {"output_dir": "output", "num_workers": "workers", "train_dataset_dir": "train_dir"}


class Parser(argparse.ArgumentParser):
    """Usage errors exit with 1: argparse's own 2 means "nothing eligible" here."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message} (see {self.prog} --help)\n")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 1 for what the user can mend, with one line that says what."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("monai_cxr_vae").setLevel(logging.INFO)
    for chatty in ("monai", "ignite"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    arguments, rest = _parser().parse_known_args(_in_our_spelling(sys.argv[1:] if words is None else words))
    try:
        return arguments.command(arguments, _given(arguments, rest)) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        cause: object = input_error(error)
        if cause is None and isinstance(error, OSError) and error.filename is not None:
            cause = f"{error.filename}: {error.strerror}"
        if cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 1


def _parser() -> Parser:
    parser = Parser(prog="cxr-vae", description="Variational autoencoder for chest radiographs. Not for diagnosis.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_reconstruct(commands)
    _add_score(commands)
    _add_scan(commands)
    _add_evaluate(commands)
    _add_calibrate(commands)
    _add_drift(commands)
    _add_embed(commands)
    _add_sample(commands)
    _add_phantom(commands)
    return parser


def _add_train(commands: Any) -> None:
    text = "train on a folder of films (default: built-in phantom films)"
    sub = _command(commands, "train", _train, text, "[FILMS] [--output OUT]")
    sub.add_argument("folder", type=Path, nargs="?", metavar="FILMS")
    sub.add_argument(
        "--config",
        choices=("critic", "prior"),
        help="a config on top of train.json: train a critic, or a level's prior",
    )
    _take_config(sub, settings_of(_files("critic", "prior", "train")))


def _train(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    films = {} if arguments.folder is None else {"dataset_dir": arguments.folder}
    _run_config(_files(*filter(None, ("train", arguments.config))), "train", settings | films)


def _add_reconstruct(commands: Any) -> None:
    text = "reconstruct every film of a folder; DICOM in, derived DICOM out"
    _add_folder_command(commands, "reconstruct", text, scores=False)


def _add_score(commands: Any) -> None:
    text = "tell of every film of a folder whether it is fit for use and how unusual it is; report.html shows them"
    _add_folder_command(commands, "score", text, scores=True, report=True, objects=["overlay", "sr"])


def _add_folder_command(commands: Any, name: str, text: str, **settings: Any) -> None:
    """A name for ``monai.bundle run inference`` with these settings."""
    sub = _command(commands, name, _run_folder, text, "IN --output OUT")
    sub.set_defaults(preset_settings=settings)
    sub.add_argument("folder", type=Path, metavar="IN")
    _take_config(sub, settings_of(_files("inference")) | settings, folder_given=True)


def _run_folder(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    settings = arguments.preset_settings | settings | {"dataset_dir": arguments.folder}
    _run_config(_files("inference"), "infer", settings)


def _add_scan(commands: Any) -> None:
    text = "tell from the headers what a run over a folder would do with each file, and why"
    sub = _command(commands, "scan", _scan, text)
    sub.add_argument("folder", type=Path, metavar="IN")
    defaults = settings_of(_files("inference"))
    _take_settings(sub, {name: defaults[name] for name in ("strict_view", "num_workers", "timeout", "memory_limit")})


def _scan(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.inference import FolderOptions, scan

    counts: Counter[str] = Counter()
    for row in scan(arguments.folder, FolderOptions(**settings, progress=sys.stderr.isatty())):
        what = f"{row['status']} {row['reason'] or ''}".strip()
        counts[what] += 1
        # A line per file, whatever stands in its name.
        path = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in row["path"])
        print(what, row.get("view") or "-", path, sep="\t")
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "no files", file=sys.stderr)


def _add_evaluate(commands: Any) -> None:
    text = "measure reconstruction on a folder of films, beside simple baselines"
    sub = _command(commands, "evaluate", _evaluate, text, "DIR --output OUT")
    sub.add_argument("folder", type=Path, metavar="DIR")
    _take_config(sub, settings_of(_files("train", "evaluate")), folder_given=True)


def _evaluate(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    if settings.get("samples") and settings.get("train_dataset_dir") is None:
        raise InputError("samples are measured beside the films of the training too: --train-dir says where they are")
    _run_config(_files("train", "evaluate"), "train", settings | {"dataset_dir": arguments.folder})
    for name in ("evaluation.json", "samples.json") if settings.get("samples") else ("evaluation.json",):
        print((settings["output_dir"] / name).read_text())


def _add_calibrate(commands: Any) -> None:
    text = "write weights whose p-values are told against a site's own normal films"
    sub = _command(commands, "calibrate", _calibrate, text)
    sub.add_argument("folder", type=Path, metavar="FILMS")
    sub.add_argument("--output", type=Path, metavar="FILE", required=True, help="the new weights file")
    _take_settings(sub, {"weights": None, "skip_unreadable": False, "bits": None})


def _calibrate(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.data import datalist
    from monai_cxr_vae.model import load_model, save_model
    from monai_cxr_vae.scoring import FEW_FILMS, calibrate, detail_films, expected_alarms

    if arguments.output.is_dir():
        raise InputError(f"{arguments.output} is a folder; name a file")
    model = load_model(arguments.weights)
    unreadable = arguments.output.with_name("unreadable.csv"), arguments.skip_unreadable
    films = detail_films(model, datalist(arguments.folder), None, *unreadable, bits=arguments.bits)
    calibrate(model, films)
    save_model(model, arguments.output)
    n = len(films)
    low, high = expected_alarms(n)
    print(f"{arguments.output}: {n} films, so the smallest p-value that is a rate is 1/{n + 1}")
    print(f"of the next 100 normal films like these, {low} to {high} will have p < 0.05 (in 19 of 20 calibrations)")
    if n < FEW_FILMS:
        print(
            f"warning: {n} films are few; with {FEW_FILMS} or more the rate of alarms is better known", file=sys.stderr
        )


def _add_drift(commands: Any) -> None:
    text = "compare the films of a scored folder, block by block in their order, with those of the calibration"
    sub = _command(commands, "drift", _drift, text)
    sub.add_argument(
        "output", type=Path, metavar="OUT", help="output of `cxr-vae score`; drift.json and drift.png go there"
    )
    sub.add_argument("--block", type=_count, default=100, help="films of a block (default: 100)")
    sub.add_argument(
        "--alarm_rate",
        type=_share,
        default=0.01,
        help="share of blocks that alarm where nothing has changed (default: 0.01)",
    )
    _take_settings(sub, {"weights": None})


def _drift(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.evaluation import drift
    from monai_cxr_vae.model import weights_file

    found = drift(arguments.output, weights_file(arguments.weights), arguments.block, arguments.alarm_rate)
    for block in found["blocks"]:
        told = f"films {block['first']} to {block['last']}: p {block['p']:.2g}"
        if block["alarm"]:
            told += f", ALARM: {', '.join(block['changed'])}"
        if block["new"]:
            told += f"; first seen: {', '.join(block['new'])}"
        print(told)
    alarms, count = sum(block["alarm"] for block in found["blocks"]), len(found["blocks"])
    print(
        f"{alarms} of {count} blocks alarm; of blocks of films like those of the calibration ({found['calibration']}), "
        f"{100 * arguments.alarm_rate:g}% do. Picture: {arguments.output / 'drift.png'}"
    )


def _add_embed(commands: Any) -> None:
    sub = _command(commands, "embed", _embed, "write the latents of a folder of films (npz and csv)")
    sub.add_argument("folder", type=Path, metavar="IN")
    sub.add_argument("--output", type=Path, metavar="OUT", required=True)
    sub.add_argument("--paths", action="store_true", help="add the films' paths, which may tell who the patient is")
    _take_settings(sub, {"weights": None, "skip_unreadable": False, "bits": None})


def _embed(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.inference.embed import embed
    from monai_cxr_vae.model import load_model

    model = load_model(arguments.weights)
    reading = {"skip_unreadable": arguments.skip_unreadable, "bits": arguments.bits}
    count = embed(model, arguments.folder, arguments.output, arguments.paths, **reading)
    print(f"latents of {count} films in {arguments.output}")


def _add_sample(commands: Any) -> None:
    text = "draw new films from the latent space (256 pixels: --weights hierarchical)"
    sub = _command(commands, "sample", _sample, text)
    sub.add_argument("--output", type=Path, metavar="OUT", required=True)
    sub.add_argument("--count", type=_count, default=16)
    sub.add_argument("--distribution", choices=("fitted", "prior"), default="fitted")
    sub.add_argument("--format", choices=("png", "dicom"), default="png", help="16-bit PNG, or DICOM of no patient")
    sub.add_argument("--like", type=Path, metavar="FILM", help="draw films that share the upper levels of this one")
    sub.add_argument(
        "--keep",
        choices=("codes", "film"),
        default="codes",
        help="what they share with it: its codes, or the film at a quarter of its size too (default: codes)",
    )
    _take_settings(sub, {"weights": None, "seed": 0})


def _sample(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.data import FilmDataset, film_transforms
    from monai_cxr_vae.data.drawn import write_drawn
    from monai_cxr_vae.model import load_model, weights_file

    model = load_model(arguments.weights)
    like = None
    if arguments.like is not None:
        transform = film_transforms(model.image_size, model.fit)
        like = FilmDataset([{"image": str(arguments.like)}], transform).images()
    keep = 2 if arguments.keep == "film" else 1
    films = model.sample(arguments.count, arguments.seed, arguments.distribution, like, keep, progress=True)
    write_drawn(films, arguments.output, arguments.format, weights_file(arguments.weights))
    print(f"{len(films)} films in {arguments.output}")


def _add_phantom(commands: Any) -> None:
    sub = _command(commands, "phantom", _phantom, "write procedural chest films, for trying things out")
    sub.add_argument("output", type=Path, metavar="OUT")
    sub.add_argument("--count", type=_count, default=20)
    sub.add_argument("--format", choices=("dicom", "png", "both"), default="dicom")
    _take_settings(sub, {"seed": 0})


def _phantom(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.data.phantom import write_phantoms

    files = write_phantoms(arguments.output, arguments.count, seed=arguments.seed, format=arguments.format)
    print(f"{len(files)} files in {arguments.output}")
    print("They are no films of people: the shipped scores, told for real films of adults, do not hold for them.")


def _command(
    commands: Any, name: str, function: Callable[..., int | None], text: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """A command without settings. ``usage``: its own arguments, where the settings are too many for the line."""
    usage = usage and f"cxr-vae {name} {usage} [--SETTING VALUE ...]"
    sub = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
    sub.set_defaults(command=function, takes=(), defaults=None)
    return sub


def _take_config(sub: argparse.ArgumentParser, defaults: dict[str, Any], folder_given: bool = False) -> None:
    """Make the settings of a config options of a command; its first step checks them.

    ``folder_given``: the films are an argument of the command, and where results go must be said.
    """
    names = [name for name in defaults if not (folder_given and name == "dataset_dir")]
    _add_settings(sub, {name: defaults[name] for name in names}, ["output_dir"] if folder_given else [])


def _take_settings(sub: argparse.ArgumentParser, defaults: dict[str, Any]) -> None:
    """Make settings options of a command that runs no config: it finds them, checked, among its arguments."""
    _add_settings(sub, defaults)
    sub.set_defaults(defaults=defaults)


def _add_settings(sub: argparse.ArgumentParser, defaults: dict[str, Any], required: Collection[str] = ()) -> None:
    group = sub.add_argument_group("settings")
    for name, default in defaults.items():
        kind = SETTINGS[name].kind
        form: dict[str, Any] = {"metavar": "PATH" if kind is PATH else "N" if kind in (COUNT, NATURAL) else "VALUE"}
        if kind is SWITCH:
            form = {"metavar": "True", "nargs": "?", "const": "True"}
        elif kind.several is not None:
            form["nargs"] = "+"
        text = SETTINGS[name].help.replace("`", "")
        if kind not in (PATH, SWITCH):
            text += f" Must be {kind.words}."
        if is_plain(default) and default is not None and name not in required:
            text += f" Default: {default}."
        short = [f"--{SHORT[name]}"] if name in SHORT else []
        form |= {"dest": name, "default": argparse.SUPPRESS, "required": name in required, "help": text}
        group.add_argument(*short, f"--{name}", **form)
    sub.set_defaults(takes=tuple(defaults))


def _in_our_spelling(words: Sequence[str]) -> list[str]:
    """Dashes in names as underscores, and a switch alone as True: what follows it is not its value."""
    spelt: list[str] = []
    for i, word in enumerate(words):
        if word == "--":
            return [*spelt, *words[i:]]
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if not equals and name in SETTINGS and SETTINGS[name].kind is SWITCH:
                following = words[i + 1].lower() if i + 1 < len(words) else ""
                equals, value = ("", "") if following in ("true", "false") else ("=", "True")
            word = f"--{name}{equals}{value}"
        spelt.append(word)
    return spelt


def _given(arguments: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    """The settings of a command line, and values nested in a config, ``--train#trainer#max_epochs 3``, by their ids.

    Raises:
        InputError: a word that is none of the command's.
    """
    given = {name: read_setting(name, getattr(arguments, name)) for name in arguments.takes if name in arguments}
    words = iter(rest)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if name == word.partition("=")[0]:
            raise InputError(f"unknown argument {word}")
        if arguments.defaults is not None or not ("#" in name or "::" in name):
            raise unknown_setting(name, arguments.takes)
        given[name] = read_word(value if equals else next(words, "True"))
    if arguments.defaults is not None:
        for name, value in given.items():
            check_value(name, value)
        given = arguments.defaults | given
        vars(arguments).update(given)
    return given


def _files(*names: str) -> list[str]:
    return [str(Path(bundle_root()) / "configs" / f"{name}.json") for name in names]


def _run_config(files: list[str], workflow_type: str, settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of decoders that are not used and of configs not one's own
        from monai.bundle import ConfigWorkflow

        logging.disable(logging.INFO)  # MONAI tells which logging configuration it reads
        try:
            logging_file = str(Path(files[0]).with_name("logging.conf"))
            workflow = ConfigWorkflow(files, workflow_type=workflow_type, logging_file=logging_file)
        finally:
            logging.disable(logging.NOTSET)
        for name, value in settings.items():
            if name not in workflow.parser:
                raise InputError(f"nothing in this config is called {name}")
            workflow.parser[name] = value
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, not {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
