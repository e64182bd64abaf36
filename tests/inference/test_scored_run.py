"""A folder run with scores: heat maps, Structured Reports and the page to look at, whatever happens on the way."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import pytest
from monai.transforms import Compose
from pydicom import config

from monai_cxr_vae.data.writers import SaveRadiographd, thumbnails_file
from monai_cxr_vae.inference import FilmEvaluator, FolderRun, scan
from monai_cxr_vae.scores import COLUMNS
from tests.inference.standins import CANARIES, CREATED, evaluator, rows, tree, write_film, write_folder
from tests.scored import scores_of_a_film

OBJECTS = ["overlay", "sr"]


class Scored:
    """Scores that follow from the film alone, and a map that is the film itself."""

    def __call__(self, data: dict) -> dict:
        mean = float(data["image"].mean())
        scores = scores_of_a_film(quality=-mean, quality_p=mean, anomaly=10 * mean, anomaly_p=1 - mean)
        return {**data, "scores": scores, "heatmap": data["image"].clone()}


def engine(
    folder: Path, output: Path, objects: Sequence[str] = OBJECTS, created: str | None = CREATED, **options: object
) -> FilmEvaluator:
    made = evaluator(folder, output, report=True, **options)
    save = SaveRadiographd("pred", output, made.provenance, objects=objects, scores=True, report=True, created=created)
    made.chain.postprocessing = Compose([Scored(), save])
    return made


def reported(output: Path) -> list[dict]:
    page = (output / "report.html").read_text()
    (data,) = re.findall(r'<script type="application/json" id="rows">(.*?)</script>', page, re.S)
    return json.loads(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    base = tmp_path_factory.mktemp("scored")
    folder, output = write_folder(base / "in", 4), base / "out"
    truncated = write_film(folder / "broken", 20)
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    job = engine(folder, output)
    job.run()
    assert job.exit_code == 8
    return folder, output


def test_every_film_has_its_scores_in_the_manifest_and_in_its_report(finished):
    folder, output = finished
    for name, row in rows(folder, output).items():
        done = row["status"] == "done"
        assert all((key in row) == done for key in COLUMNS)
        kinds = ["overlay", "sr"] if row["format"] == "dicom" else ["overlay"]
        assert [o["kind"] for o in row["outputs"]] == (kinds if done else []), name
        for written in row["outputs"]:
            if written["kind"] == "sr":
                text = str(pydicom.dcmread(output / written["path"]))
                assert text.count(f"{row['anomaly']:.9f}"[:9]) >= 1
                assert row["sop_uid"] in text
            elif row["format"] == "dicom":
                assert "heat map" in pydicom.dcmread(output / written["path"]).SeriesDescription


def test_page_has_every_file_with_its_picture_or_its_reason(finished):
    folder, output = finished
    told = {row["index"]: row for row in reported(output)}
    for row in rows(folder, output).values():
        shown = told.pop(row["index"])
        assert (shown["status"], shown.get("reason")) == (row["status"], row["reason"])
        if row["status"] == "done":
            assert {key: shown[key] for key in COLUMNS} == {key: row[key] for key in COLUMNS}
            assert base64.b64decode(shown["strip"]) == thumbnails_file(output, row["input_sha256"]).read_bytes()
        else:
            assert "strip" not in shown
    assert not told


def test_second_run_changes_nothing(finished):
    folder, output = finished
    before = tree(output)
    engine(folder, output).run()
    assert tree(output) == before


@pytest.mark.parametrize("after", [0, 2])
def test_abandoned_run_is_completed(finished, tmp_path, after):
    folder, output = finished
    left = engine(folder, tmp_path / "out", num_workers=2)
    job = FolderRun(left.dataset, tmp_path / "out", left.chain, left.provenance, left.options)
    job.__enter__()
    for _, row in zip(range(after), job, strict=False):
        job.record(row)
    job._cleanup.close()
    assert not (tmp_path / "out" / "report.html").exists()
    engine(folder, tmp_path / "out").run()
    assert tree(tmp_path / "out") == tree(output)


def leaves(ds: pydicom.Dataset) -> Iterator[tuple[str, str, str]]:
    """Place, keyword and value of each element that holds no others."""
    for element in ds:
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from ((f"{element.keyword}{number}.{place}", *rest) for place, *rest in leaves(item))
        else:
            yield element.keyword, element.keyword, str(element.value)


def test_at_another_time_objects_differ_in_times_and_uids_alone(tmp_path):
    """The report too, which names the images of its own time as evidence."""
    write_film(tmp_path / "in" / "a", 1)
    kinds = ["sc", "overlay", "sr"]
    found = []
    for place in ("one", "other"):
        if found:
            kept = (tmp_path / "one" / ".run" / "created").read_text()
            (tmp_path / place / ".run").mkdir(parents=True)
            (tmp_path / place / ".run" / "created").write_text(re.sub(r" \S*", " 2011-02-03T04:05:06+01:00", kept))
        engine(tmp_path / "in", tmp_path / place, kinds, created=None).run()
        (row,) = rows(tmp_path / "in", tmp_path / place).values()
        found.append([list(leaves(pydicom.dcmread(tmp_path / place / o["path"]))) for o in row["outputs"]])
    assert len(found[0]) == len(kinds)
    for kind, one, other in zip(kinds, *found, strict=True):
        differ = {mine[1] for mine, theirs in zip(one, other, strict=True) if mine != theirs}
        own = {"SOPInstanceUID", "SeriesInstanceUID"} | ({"ReferencedSOPInstanceUID"} if kind == "sr" else set())
        times = {event + what for event in ("InstanceCreation", "Series", "Content") for what in ("Date", "Time")}
        assert differ == own | times


def test_a_lost_picture_is_made_again(tmp_path):
    write_film(tmp_path / "in" / "a", 1)
    engine(tmp_path / "in", tmp_path / "out").run()
    (row,) = reported(tmp_path / "out")
    thumbnails_file(tmp_path / "out", row["input_sha256"]).unlink()
    engine(tmp_path / "in", tmp_path / "out").run()
    assert reported(tmp_path / "out") == [row]


def test_a_malformed_identity_costs_the_objects_and_not_the_scores(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    values = {"sound": "A1", "long": "ACC-2024-0000123456"}
    for number, (name, value) in enumerate(values.items()):
        with config.disable_value_validation():
            write_film(folder / name, number, AccessionNumber=value)
    scanned = {Path(row["path"]).name: row for row in scan(folder)}
    assert [scanned[name]["status"] for name in values] == ["eligible", "eligible"]
    assert scanned["long"]["warnings"] == ["malformed_AccessionNumber"]
    job = engine(folder, output)
    job.run()
    assert job.exit_code == 0
    found = rows(folder, output)
    assert (found["long"]["status"], found["long"]["outputs"]) == ("done", [])
    assert found["long"]["warnings"] == ["malformed_AccessionNumber"]
    assert all(key in found["long"] for key in COLUMNS)
    assert [o["kind"] for o in found["sound"]["outputs"]] == OBJECTS
    before = tree(output)
    engine(folder, output).run()
    assert tree(output) == before


def test_nothing_about_a_patient_or_a_path_is_told_unless_asked_for(tmp_path):
    name, identity, place = CANARIES
    write_film(tmp_path / place / identity, 1, PatientName=name, PatientID=identity, StudyDescription=identity)
    for output, options in (("out", {}), ("paths", {"manifest_paths": True})):
        engine(tmp_path / place, tmp_path / output, **options).run()
        page = (tmp_path / output / "report.html").read_text()
        assert name not in page
        assert (place in page) == (output == "paths")
