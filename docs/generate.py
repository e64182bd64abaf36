"""Writes the pages of the reference that stand in tables of the code: `python docs/generate.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai_cxr_vae.inference.rows import COLUMNS, OPTIONAL
from monai_cxr_vae.paths import bundle_root
from monai_cxr_vae.settings import KNOBS

HERE = Path(__file__).parent
NOTE = "Written by `python docs/generate.py` from the tables in the code; do not edit.\n"

# Per config: who reads it, and what precedes its table.
CONFIGS = {
    "train.json": "`cxr-vae train`, `python -m monai.bundle run training`. Each setting is an option of both: "
    "`--max_epochs 50`.",
    "critic.json": "After `train.json`, to train a critic; these differ from it or are new.",
    "evaluate.json": "After `train.json`, for `cxr-vae evaluate` and `run evaluating`; these differ or are new.",
    "inference.json": "`cxr-vae reconstruct`, `cxr-vae score`, `python -m monai.bundle run inference`. Some options of "
    "`cxr-vae` have other names (`--workers`, `--retry-failed`; see `cxr-vae reconstruct --help`).",
}

MEANING = {
    "augment": "Vary position, shape and exposure of the training films a little.",
    "batch_size": "Films per step, of all processes together. In inference: films per pass on an accelerator (null: 32 "
    "there, one by one on a CPU).",
    "bf16": "Run the network in bfloat16 where the device has it.",
    "bits": "Depth of 16-bit PNG films, so that those of one set are scaled alike (null: that of each film's maximum).",
    "bits_stored": "Depth of reconstructions, 12 or 16.",
    "cache_dir": "Where decoded films are kept (null: `~/.cache/monai_cxr_vae`).",
    "channels": "Widths of the network's convolutions (null: the preset's).",
    "dataset_dir": "Folder of films. Unless given, phantom films, made on first use.",
    "device": "Where the network runs. Unless given, a GPU if there is one, else the CPU.",
    "fit": "How a film becomes square: fill it, or keep the proportions and pad (null: `stretch`).",
    "force": "Do everything again.",
    "image_size": "Pixels along a side of the network's square (null: the preset's).",
    "kl_weight": "Weight of the KL term; `auto` follows the reconstruction error.",
    "latent_size": "Number of latent values (null: the preset's).",
    "learning_rate": "Highest rate of the one cycle.",
    "left_out": "Names of families of faults and findings that the critic shall not see.",
    "manifest_paths": "Put input paths, which may name patients, into the manifest and the report.",
    "max_epochs": "Passes over the training films.",
    "memory_limit": "GiB that a process may take beyond what it starts with, null for no limit.",
    "metrics_csv": "Log of the training, for `curves.png`.",
    "num_threads": "CPU threads of each process.",
    "num_workers": "Processes that read films. In inference: null takes one per core, at most 4.",
    "objects": "What to write: `sc` (the reconstruction), `overlay` (heat map), `sr` (Structured Report of scores).",
    "output_dir": "Where results go. A training unless told otherwise makes a new folder below `./output`.",
    "patience": "End after so many epochs without a better validation (null: never).",
    "preset": "Named set of defaults for the network (null: `vector`, or that of `weights`).",
    "report": "Write `report.html`, which shows the films.",
    "resume": "Go on with the run in `output_dir`.",
    "retry_failed": "Try failed films again.",
    "scores": "Score the films. Unless given, whenever the weights can.",
    "seed": "Of everything random; the same seed repeats a run.",
    "skip_unreadable": "Go on without films that cannot be read; `unreadable.csv` in the output folder lists them.",
    "stride": "Pixels along a side of a cell of the grid of latents, spatial presets only (null: the preset's).",
    "strict_view": "Skip films that nothing says are frontal.",
    "timeout": "Seconds per film.",
    "train_dataset_dir": "Training films, to fit the baselines on (null: the evaluated ones, which flatters them).",
    "val_dataset_dir": "Folder of validation films (null: a part of `dataset_dir`, split by patient).",
    "val_fraction": "Share of the patients that validate where no folder is given.",
    "val_interval": "Epochs from one validation to the next.",
    "weights": "Weights file, or the name of shipped weights: to use, or to go on from in a training (null: a new "
    "network).",
    "width": "Units of the network's hidden layers (null: the network's own).",
}

COLUMN_MEANING = {
    "index": "Number of the file, the same in every run over this folder.",
    "status": "`done`, `skipped` (no film for this program) or `failed` (a film that gave no result).",
    "reason": "Why it is skipped or failed, a word.",
    "format": "`dicom`, `png`, `jpeg` or `nifti`.",
    "study_uid": "Study Instance UID of the film.",
    "series_uid": "Series Instance UID of the film.",
    "sop_uid": "SOP Instance UID of the film.",
    "input_sha256": "SHA-256 of the file.",
    "rows": "Height in pixels.",
    "columns": "Width in pixels.",
    "bits_stored": "Depth of the samples.",
    "photometric": "`MONOCHROME1` or `MONOCHROME2`, as stored.",
    "transfer_syntax": "UID of the encoding of the pixels.",
    "decoder": "The library that decoded them.",
    "voi": "How contrast was chosen: `linear`, `lut`, `full_range`, `percentile`, ...",
    "view": "`PA`, `AP`, `frontal`, `lateral` or `unknown`.",
    "model_sha256": "SHA-256 of the weights file.",
    "config_sha256": "Digest of the settings that change results.",
    "outputs": "JSON list of what was written: kind, UID, path below OUT, SHA-256, size.",
    "warnings": "JSON list of words: what had to be assumed or worked around.",
    "duplicate_of": "`index` of the file that stands for this one.",
    "replaces": "JSON list of earlier results that still lie in OUT but no longer stand for this file.",
    "path": "Path of the file; only with `manifest_paths`, since it may name a patient.",
    "quality": "Score: how unlike a proper frontal chest film. No unit; larger is less usual.",
    "quality_p": "Its conformal p-value.",
    "quality_part": "The aspect that contributed most.",
    "anomaly": "Score: how unusual the chest is.",
    "anomaly_p": "Its conformal p-value.",
    "anomaly_part": "The aspect that contributed most.",
}


def pages() -> dict[Path, str]:
    """The text of each page by its file."""
    reference = HERE / "reference"
    return {reference / "settings.md": settings_page(), reference / "columns.md": columns_page()}


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        NOTE,
        "*Computed* defaults are explained. A value that begins with `$` is a Python expression that MONAI evaluates. "
        "`--config_file` takes several files, the later ones on top.",
    ]
    for name, use in CONFIGS.items():
        rows = [
            (f"`{key}`", KNOBS[key][1] if key in KNOBS else "", _default(value), MEANING[key])
            for key, value in json.loads((Path(bundle_root()) / "configs" / name).read_text()).items()
            if is_setting(key, value)
        ]
        lines += ["", f"## {name}", "", use, "", *_table(("setting", "must be", "default", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def is_setting(key: str, value: Any) -> bool:
    """Whether a top-level entry of a config is for users: a plain value, or one that the command line checks."""
    parts = value if isinstance(value, list) else [value]
    worked_out = any(isinstance(part, dict) or str(part)[:1] in ("$", "%") for part in parts)
    return key in KNOBS or not (worked_out or "#" in key)


def columns_page() -> str:
    rows = [(f"`{name}`", "if used" if name in OPTIONAL else "always", COLUMN_MEANING[name]) for name in COLUMNS]
    return "\n".join(
        [
            "# Columns of the manifest",
            "",
            NOTE,
            "`OUT/manifest.csv` has one row for every file of IN. `OUT/manifest.jsonl` is its journal: of several "
            "lines with one `index` the last counts.",
            "",
            *_table(("column", "there", "meaning"), rows),
            "",
        ]
    )


def _default(value: Any) -> str:
    return "*computed*" if isinstance(value, str) and value.startswith("$") else f"`{json.dumps(value)}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
