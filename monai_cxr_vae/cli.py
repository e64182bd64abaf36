"""The command line ``cxr-vae``: a thin face over the bundle's configs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from monai_cxr_vae.paths import bundle_root
from monai_cxr_vae.version import __version__


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
    arguments, rest = _parser().parse_known_args(words)
    if rest and arguments.command is not _train:
        print(f"error: unknown argument {rest[0]}", file=sys.stderr)
        return 1
    try:
        return arguments.command(arguments, rest) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        from monai_cxr_vae.startup import input_error

        cause: object = input_error(error)
        if cause is None and isinstance(error, OSError) and error.filename is not None:
            cause = f"{error.filename}: {error.strerror}"
        if cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 1


def _train(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.startup import KNOBS, PATH, flags

    folder = Path(rest.pop(0)) if rest and not rest[0].startswith("-") else None
    paths = [name for name, check in KNOBS.items() if check is PATH]
    settings = flags(rest, paths) | _given(dataset_dir=folder, output_dir=arguments.output, weights=arguments.weights)
    _run_config(["train.json"], "train", settings)


def _reconstruct(arguments: argparse.Namespace, rest: list[str]) -> None:
    # The spatial preset makes the better picture; what is written beside it needs scores, which it does not give.
    if arguments.objects == ["sc"] and (Path(bundle_root()) / "models" / "spatial.pt").is_file():
        arguments.weights = arguments.weights or Path("spatial")
    _run_folder(arguments)


def _score(arguments: argparse.Namespace, rest: list[str]) -> None:
    _run_folder(arguments, scores=True, report=True)


def _run_folder(arguments: argparse.Namespace, **switches: bool) -> None:
    settings = switches | _given(
        dataset_dir=arguments.folder,
        output_dir=arguments.output,
        weights=arguments.weights,
        objects=arguments.objects,
        bits_stored=arguments.bits_stored,
        num_workers=arguments.workers,
        timeout=arguments.timeout,
    )
    for switch in ("force", "retry_failed", "strict_view", "manifest_paths"):
        if getattr(arguments, switch):
            settings[switch] = True
    _run_config(["inference.json"], "infer", settings)


def _scan(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.inference import FolderOptions, scan

    counts: Counter[str] = Counter()
    for row in scan(arguments.folder, FolderOptions(strict_view=arguments.strict_view, progress=sys.stderr.isatty())):
        what = f"{row['status']} {row['reason'] or ''}".strip()
        counts[what] += 1
        # A line per file, whatever stands in its name.
        path = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in row["path"])
        print(what, row.get("view") or "-", path, sep="\t")
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "no files", file=sys.stderr)


def _evaluate(arguments: argparse.Namespace, rest: list[str]) -> None:
    settings = _given(
        dataset_dir=arguments.folder,
        train_dataset_dir=arguments.train_dir,
        output_dir=arguments.output,
        weights=arguments.weights,
        metrics_csv=arguments.metrics_csv,
        skip_unreadable=arguments.skip_unreadable,
        samples=arguments.samples,
    )
    if arguments.samples and arguments.train_dir is None:
        from monai_cxr_vae.errors import InputError

        raise InputError("samples are measured beside the films of the training too: --train-dir says where they are")
    _run_config(["train.json", "evaluate.json"], "train", settings)
    for name in ("evaluation.json", "samples.json") if arguments.samples else ("evaluation.json",):
        print((arguments.output / name).read_text())


def _sample(arguments: argparse.Namespace, rest: list[str]) -> None:
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


def _calibrate(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.data import datalist
    from monai_cxr_vae.errors import InputError
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


def _drift(arguments: argparse.Namespace, rest: list[str]) -> None:
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


def _embed(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.inference.embed import embed
    from monai_cxr_vae.model import load_model

    model = load_model(arguments.weights)
    reading = {"skip_unreadable": arguments.skip_unreadable, "bits": arguments.bits}
    count = embed(model, arguments.folder, arguments.output, arguments.paths, **reading)
    print(f"latents of {count} films in {arguments.output}")


def _phantom(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.data.phantom import write_phantoms

    files = write_phantoms(arguments.output, arguments.count, seed=arguments.seed, format=arguments.format)
    print(f"{len(files)} files in {arguments.output}")
    print("They are no films of people: the shipped scores, told for real films of adults, do not hold for them.")


def _run_config(names: list[str], workflow_type: str, settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of decoders that are not used and of configs not one's own
        from monai.bundle import ConfigParser, ConfigWorkflow

        from monai_cxr_vae.startup import check_settings

        configs = Path(bundle_root()) / "configs"
        files = [str(configs / name) for name in names]
        check_settings(settings, ConfigParser.load_config_files(files))
        logging.disable(logging.INFO)  # MONAI tells which logging configuration it reads
        try:
            workflow = ConfigWorkflow(
                files, workflow_type=workflow_type, logging_file=str(configs / "logging.conf"), **settings
            )
        finally:
            logging.disable(logging.NOTSET)
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _parser() -> Parser:
    parser = Parser(prog="cxr-vae", description="Variational autoencoder for chest radiographs. Not for diagnosis.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any, text: str, *, weights: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__[1:], help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=function)
        if weights:
            sub.add_argument(
                "--weights", type=Path, metavar="FILE", help="weights file or preset (default: the shipped weights)"
            )
        return sub

    train = command(_train, "train on a folder of films (default: built-in phantom films)")
    train.usage = "cxr-vae train [FILMS] [--output OUT] [--weights FILE] [--SETTING VALUE ...]"
    train.epilog = "Every setting of train.json is an option: --max_epochs 50. FILMS comes first."
    train.add_argument(
        "--output", type=Path, metavar="OUT", help="folder of the run (default: a new one below ./output)"
    )

    def folder_command(function: Any, text: str, objects: list[str]) -> None:
        sub = command(function, text)
        sub.add_argument("folder", type=Path, metavar="IN")
        sub.add_argument("--output", type=Path, metavar="OUT", required=True)
        sub.add_argument(
            "--objects",
            nargs="+",
            choices=("sc", "overlay", "sr"),
            default=objects,
            metavar="KIND",
            help="what to write. sc: the reconstruction; overlay: the film under a heat map of what is unusual, or of "
            "what the reconstruction lacks where the weights give no scores; sr: a DICOM Structured Report of the "
            f"scores (default: {' '.join(objects)})",
        )
        sub.add_argument("--bits-stored", type=int, choices=(12, 16), help="of the reconstruction (default: 12)")
        sub.add_argument("--workers", type=_count, help="processes (default: one per core, at most 4)")
        sub.add_argument("--timeout", type=_count, help="seconds per film (default: 120)")
        sub.add_argument("--force", action="store_true", help="do everything again")
        sub.add_argument("--retry-failed", action="store_true", help="try failed films again")
        sub.add_argument("--strict-view", action="store_true", help="skip films that nothing says are frontal")
        sub.add_argument(
            "--manifest-paths",
            action="store_true",
            help="put input paths, which may name patients, into the manifest and the report",
        )

    folder_command(
        _reconstruct,
        "reconstruct every film of a folder; DICOM in, derived DICOM out (weights: spatial, with other objects than sc "
        "model, unless --weights says otherwise)",
        ["sc"],
    )
    text = "tell of every film of a folder whether it is fit for use and how unusual it is; report.html shows them"
    folder_command(_score, text, ["overlay", "sr"])

    text = "tell from the headers what a run over a folder would do with each file, and why"
    scan = command(_scan, text, weights=False)
    scan.add_argument("folder", type=Path, metavar="IN")
    scan.add_argument("--strict-view", action="store_true", help="skip films that nothing says are frontal")

    evaluate = command(_evaluate, "measure reconstruction on a folder of films, beside simple baselines")
    evaluate.add_argument("folder", type=Path, metavar="DIR")
    evaluate.add_argument("--output", type=Path, metavar="OUT", required=True)
    evaluate.add_argument("--train-dir", type=Path, metavar="DIR", help="training films, to fit the baselines on")
    evaluate.add_argument("--metrics-csv", type=Path, metavar="FILE", help="log of the training, for curves.png")

    evaluate.add_argument(
        "--samples",
        type=_count,
        metavar="N",
        help="measure samples too, N for each of three seeds, beside real films; needs --train-dir and "
        "pip install 'monai-cxr-vae[samples]'",
    )

    calibrate = command(_calibrate, "write weights whose p-values are told against a site's own normal films")
    calibrate.add_argument("folder", type=Path, metavar="FILMS")
    calibrate.add_argument("--output", type=Path, metavar="FILE", required=True, help="the new weights file")

    text = "compare the films of a scored folder, block by block in their order, with those of the calibration"
    drift = command(_drift, text)
    drift.add_argument(
        "output", type=Path, metavar="OUT", help="output of `cxr-vae score`; drift.json and drift.png go there"
    )
    drift.add_argument("--block", type=_count, default=100, help="films of a block (default: 100)")
    drift.add_argument(
        "--alarm-rate",
        type=_share,
        default=0.01,
        help="share of blocks that alarm where nothing has changed (default: 0.01)",
    )

    embed = command(_embed, "write the latents of a folder of films (npz and csv)")
    embed.add_argument("folder", type=Path, metavar="IN")
    embed.add_argument("--output", type=Path, metavar="OUT", required=True)
    embed.add_argument("--paths", action="store_true", help="add the films' paths, which may tell who the patient is")

    for sub in (evaluate, calibrate, embed):
        sub.add_argument(
            "--skip_unreadable",
            "--skip-unreadable",
            type=_switch,
            nargs="?",
            const=True,
            default=False,
            metavar="True",
            help="go on without films that cannot be read; unreadable.csv lists them either way",
        )
    for reading in (calibrate, embed):
        reading.add_argument("--bits", type=int, choices=(8, 10, 12, 14, 16), help="depth of 16-bit PNG films")

    sample = command(_sample, "draw new films from the latent space (256 pixels: --weights hierarchical)")
    sample.add_argument("--output", type=Path, metavar="OUT", required=True)
    sample.add_argument("--count", type=_count, default=16)
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--distribution", choices=("fitted", "prior"), default="fitted")
    sample.add_argument("--format", choices=("png", "dicom"), default="png", help="16-bit PNG, or DICOM of no patient")
    sample.add_argument("--like", type=Path, metavar="FILM", help="draw films that share the upper levels of this one")
    sample.add_argument(
        "--keep",
        choices=("codes", "film"),
        default="codes",
        help="what they share with it: its codes, or the film at a quarter of its size too (default: codes)",
    )

    phantom = command(_phantom, "write procedural chest films, for trying things out", weights=False)
    phantom.add_argument("output", type=Path, metavar="OUT")
    phantom.add_argument("--count", type=_count, default=20)
    phantom.add_argument("--seed", type=_natural, default=0)
    phantom.add_argument("--format", choices=("dicom", "png", "both"), default="dicom")
    return parser


def _count(text: str) -> int:
    return _whole_number(text, 1)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, not {text!r}")
    return value


def _natural(text: str) -> int:
    return _whole_number(text, 0)


def _switch(text: str) -> bool:
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")
    return text == "True"


def _whole_number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least}, not {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
