"""Mistyped settings and bad values on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.paths import bundle_root
from monai_cxr_vae.startup import check_settings, flags, input_error

KNOWN = {
    "max_epochs": 20,
    "image_size": None,
    "kl_weight": "auto",
    "fit": "stretch",
    "resume": False,
    "my_own": 3,
    "bits": None,
}
KNOWN |= {"channels": None, "val_fraction": 0.1, "dataset_dir": "$films()", "weights": None, "device": "$device()"}
KNOWN |= {"bits": None}


def test_flags_are_read_as_monai_reads_them():
    words = ["training", "--max_epochs", "3", "--learning-rate=1e-4", "--resume", "True", "--dataset_dir", "/films"]
    assert flags(words) == {"max_epochs": 3, "learning_rate": 1e-4, "resume": True, "dataset_dir": "/films"}
    assert flags(
        ["--learning_rate", ".001", "--kl_weight", "auto", "--width", "None", "--channels=[8,16]", "--bf16"]
    ) == {
        "learning_rate": 0.001,
        "kl_weight": "auto",
        "width": None,
        "channels": [8, 16],
        "bf16": True,
    }


@pytest.mark.parametrize("word", ["false", "true", "no"])
def test_a_switch_that_monai_would_read_as_text_is_refused(word: str):
    with pytest.raises(InputError, match=f"^--resume must be True or False, not '{word}'$"):
        check_settings(flags(["--resume", word]), KNOWN)


@pytest.mark.parametrize(("name", "nearest"), [("max_epoch", "max_epochs"), ("imagesize", "image_size")])
def test_a_mistyped_setting_is_answered_with_the_nearest(name: str, nearest: str):
    with pytest.raises(InputError, match=f"unknown setting --{name}; nearest is --{nearest}$"):
        check_settings({name: 3}, KNOWN)


@pytest.mark.parametrize(
    "given",
    [
        {"max_epochs": 3, "image_size": 64, "kl_weight": 1e-5},
        {"image_size": None},
        {"max_epochs": "$2 * 5"},
        {"train#trainer#max_epochs": "anything", "train::dataset": 1},
        {"my_own": "free"},
        {"channels": [8, 16], "val_fraction": 0.2, "dataset_dir": "./2024", "weights": "spatial", "device": "cpu"},
        {"channels": None, "weights": None},
        {"bits": 12},
        {"bits": None},
        {"config_file": "a.json", "logging_file": False},
    ],
)
def test_what_configs_know_passes(given: dict[str, object]):
    check_settings(given, KNOWN)


@pytest.mark.parametrize(
    "given",
    [
        {"max_epochs": "abc"},
        {"max_epochs": 0},
        {"max_epochs": 1.5},
        {"max_epochs": None},
        {"image_size": -64},
        {"kl_weight": "much"},
        {"kl_weight": 0},
        {"fit": "crop"},
        {"bits": 11},
        {"resume": "maybe"},
        {"channels": 8},
        {"channels": []},
        {"channels": [8, 0]},
        {"val_fraction": 0},
        {"val_fraction": 1},
        {"dataset_dir": 2024},
        {"weights": 5},
        {"device": "gpu"},
        {"device": "cuda:99"},
        {"device": 0},
    ],
)
def test_a_bad_value_names_its_setting(given: dict[str, object]):
    with pytest.raises(InputError, match=f"^--{next(iter(given))} must be "):
        check_settings(given, KNOWN)


def test_several_processes_must_be_started_as_such(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RANK", raising=False)
    names = [str(Path(bundle_root()) / "configs" / name) for name in ("train.json", "multi_gpu_train.json")]
    with pytest.raises(RuntimeError) as caught:
        ConfigWorkflow(names, workflow_type="train", logging_file=False, device="cpu").initialize()
    assert str(input_error(caught.value)).endswith("start this with torchrun")


def test_the_users_error_is_found_behind_what_frameworks_raise():
    wrapped = RuntimeError("Failed to instantiate component")
    wrapped.__cause__ = RuntimeError("Cannot evaluate expression")
    wrapped.__cause__.__context__ = InputError("no films in x")
    assert str(input_error(wrapped)) == "no films in x"
    assert input_error(ValueError("a defect of ours")) is None
