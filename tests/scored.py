"""Scores of an invented film, by the table of scores, and what a Structured Report tells of each."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pydicom
from highdicom.sr import ComprehensiveSR

from monai_cxr_vae.scores import ASPECTS, SCORES


def scores_of_a_film(**known: float | str) -> dict[str, float | str]:
    """Every score, its p-value and its part, all different; ``known`` in place of what is invented."""
    invented: dict[str, float | str] = {}
    for i, (name, part) in enumerate(zip(SCORES, ASPECTS, strict=False), 1):
        invented |= {name: 1.25 - i / 3, f"{name}_p": 0.4 / i, f"{name}_part": part}
    assert known.keys() <= invented.keys()
    return invented | known


def groups_of(report: pydicom.Dataset) -> dict[str, list[Any]]:
    """The measurement groups of a report by the score that they tell of."""
    groups = defaultdict(list)
    for group in ComprehensiveSR.from_dataset(report).content.get_planar_roi_measurement_groups():
        groups[group.get_measurements()[0].name.value].append(group)
    assert list(groups) == list(SCORES)
    return groups
