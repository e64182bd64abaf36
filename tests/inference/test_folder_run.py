"""A folder run loses nothing, repeats nothing, tells nothing about a patient, and says how it ended."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from monai.transforms import Compose
from PIL import Image

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.inference import FolderOptions, FolderRun, scan
from monai_cxr_vae.inference.rows import COLUMNS, OPTIONAL
from tests.inference.standins import (
    BOMB,
    BUG,
    CANARIES,
    CRASH,
    HANG,
    SIZE,
    evaluator,
    picture,
    rows,
    run,
    tree,
    write_film,
    write_folder,
)

PROGRAM = [sys.executable, "-W", "default", "-c", "from tests.inference.standins import main; main()"]


def status(row):
    return row["status"], row["reason"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder, and what an undisturbed run makes of it."""
    base = tmp_path_factory.mktemp("finished")
    folder, output = write_folder(base / "in"), base / "out"
    return folder, output, run(folder, output, objects=["sc", "overlay"])


def test_every_file_has_one_row_and_every_film_its_objects(finished):
    _, output, result = finished
    result = dict(result)
    assert result.pop("exit code") == 0
    assert {name: status(row) for name, row in result.items()} == {
        **{f"{i:02d}/film": ("done", None) for i in range(6)},
        "a.png": ("done", None),
        "notes.txt": ("skipped", "not_dicom"),
        ".hidden": ("skipped", "empty"),
    }
    assert sorted(row["index"] for row in result.values()) == list(range(9))
    for name, row in result.items():
        assert set(row) == set(COLUMNS) - OPTIONAL
        assert [o["kind"] for o in row["outputs"]] == (
            ["sc", "overlay"] if "film" in name else ["image", "overlay"] * (name == "a.png")
        )
        for written in row["outputs"]:
            assert tree(output)[written["path"]] == written["sha256"]
    expected = {o["path"] for row in result.values() for o in row["outputs"]} | {"manifest.csv"}
    assert set(tree(output)) == expected


def test_written_object_is_the_film_upright(finished):
    _, output, result = finished
    for i in range(6):
        row = result[f"{i:02d}/film"]
        ds = pydicom.dcmread(output / row["outputs"][0]["path"])
        assert row["outputs"][0]["path"] == f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm"
        assert ds.StudyInstanceUID == row["study_uid"] == f"1.2.3.5.{i + 1}"
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == row["sop_uid"]
        source = np.asarray(
            Image.fromarray(picture(i).astype(np.float32)).resize(ds.pixel_array.shape[::-1], Image.BOX)
        )
        candidates = [source, source[::-1], source[:, ::-1], source[::-1, ::-1], 4095 - source]
        assert ds.pixel_array.shape == (SIZE, 27)  # 60 x 50 without the padding of the square
        assert np.argmin([np.abs(ds.pixel_array - c).mean() for c in candidates]) == 0


def test_second_run_changes_nothing(finished):
    folder, output, _ = finished
    before, journal = tree(output), (output / "manifest.jsonl").read_bytes()
    assert run(folder, output, objects=["sc", "overlay"])["exit code"] == 0
    assert (tree(output), (output / "manifest.jsonl").read_bytes()) == (before, journal)


def test_order_and_number_of_processes_do_not_change_a_byte(finished, tmp_path):
    folder, output, _ = finished
    run(folder, tmp_path / "out", objects=["sc", "overlay"], num_workers=3)
    assert tree(tmp_path / "out") == tree(output)


def test_force_does_everything_again(finished):
    folder, output, _ = finished
    before, lines = tree(output), len((output / "manifest.jsonl").read_bytes().splitlines())
    run(folder, output, objects=["sc", "overlay"], force=True)
    assert tree(output) == before
    assert len((output / "manifest.jsonl").read_bytes().splitlines()) == lines + 9


def test_a_film_keeps_the_time_of_its_first_result(finished, tmp_path):
    """Made again, its objects have the same bytes; in another folder they differ in times and UIDs alone."""
    folder, _, _ = finished
    one, other = tmp_path / "one", tmp_path / "other"
    options = {"objects": ["sc", "overlay"], "created": None}
    run(folder, one, **options)
    made, kept = tree(one), one / ".run" / "created"
    assert {ds.ContentDate for ds in objects(one)} <= {time.strftime("%Y%m%d", time.localtime(t)) for t in recently()}
    (other / ".run").mkdir(parents=True)
    (other / ".run" / "created").write_text(re.sub(r" 20\d\d", " 2011", kept.read_text()))
    run(folder, other, **options)
    for path in list(one.rglob("*.dcm"))[::2]:
        path.unlink()
    run(folder, one, **options)
    assert tree(one) == made
    run(folder, one, force=True, **options)
    assert tree(one) == made
    assert len(kept.read_text().splitlines()) == 6
    pairs = [{(ds.StudyInstanceUID, ds.SamplesPerPixel): ds for ds in objects(place)} for place in (one, other)]
    assert pairs[0].keys() == pairs[1].keys()
    for key, ds in pairs[0].items():
        differ = {element.keyword for element in ds if element != pairs[1][key][element.tag]}
        assert differ == {
            *("InstanceCreationDate", "SeriesDate", "ContentDate"),
            *("SeriesInstanceUID", "SOPInstanceUID"),
        }
        assert (ds.ContentDate[4:], pairs[1][key].ContentDate[:4]) == (pairs[1][key].ContentDate[4:], "2011")


def recently():
    """Times of the day that this test runs on, or of both if it began before midnight."""
    return time.time() - 3600, time.time()


def objects(output):
    return [pydicom.dcmread(path) for path in output.rglob("*.dcm")]


@pytest.mark.parametrize("after", [0, 1, 4])
def test_abandoned_run_is_completed(finished, tmp_path, after):
    """What a kill leaves behind: a torn line, an unfinished file, an object without its row."""
    folder, output, _ = finished
    abandoned = evaluator(folder, tmp_path / "out", objects=["sc", "overlay"])
    job = FolderRun(abandoned.dataset, tmp_path / "out", abandoned.chain, abandoned.provenance, abandoned.options)
    job.__enter__()
    for _, row in zip(range(after), job, strict=False):
        job.record(row)
    job._cleanup.close()
    with (tmp_path / "out" / "manifest.jsonl").open("ab") as journal:
        journal.write(b'{"index":')
    (tmp_path / "out" / ".run" / "tmp").mkdir(exist_ok=True)
    (tmp_path / "out" / ".run" / "tmp" / "x.tmp").write_bytes(b"half")
    for missing in list((tmp_path / "out").rglob("*.dcm"))[:1]:
        missing.unlink()
    run(folder, tmp_path / "out", objects=["sc", "overlay"])
    assert tree(tmp_path / "out") == tree(output)
    assert not list((tmp_path / "out").rglob("*tmp*"))


def test_bad_films_cost_one_row_each(tmp_path):
    folder = tmp_path / "in"
    for i, tail in enumerate([b"", CRASH, HANG, BOMB, BUG, b""]):
        write_film(folder / str(i), i, tail=tail)
    result = run(folder, tmp_path / "out", timeout=6, num_workers=2)
    assert result.pop("exit code") == 8
    assert [status(result[str(i)]) for i in range(6)] == [
        ("done", None),
        ("failed", "crashed"),
        ("failed", "timeout"),
        ("failed", "out_of_memory"),
        ("failed", "internal"),
        ("done", None),
    ]
    assert result["4"]["warnings"][-1].startswith("KeyError@standins.py:")
    assert all(row["input_sha256"] for row in result.values())
    assert (tmp_path / "out" / "manifest.jsonl").read_text().count("CANARY") == 0


def test_failed_films_are_tried_again_only_on_request(tmp_path):
    folder = tmp_path / "in"
    write_film(folder / "a", 1)
    write_film(folder / "b", 2)
    good = (folder / "b").read_bytes()
    (folder / "b").write_bytes(good[:-1000])
    stamp = (folder / "b").stat().st_mtime_ns
    assert status(run(folder, tmp_path / "out")["b"]) == ("failed", "truncated")
    result = run(folder, tmp_path / "out")
    assert (status(result["b"]), result["exit code"]) == (("failed", "truncated"), 8)
    (folder / "b").write_bytes(good[:-1000])
    os.utime(folder / "b", ns=(stamp, stamp))
    lines = (tmp_path / "out" / "manifest.jsonl").read_bytes().count(b"\n")
    assert status(run(folder, tmp_path / "out", retry_failed=True)["b"]) == ("failed", "truncated")
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes().count(b"\n") == lines + 1


def test_changed_vanished_and_new_inputs(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for i in range(3):
        write_film(folder / str(i), i)
    first = run(folder, output)
    write_film(folder / "0", 7, SOPInstanceUID="1.2.3.3.1")
    (folder / "1").unlink()
    os.utime(folder / "2", ns=(1, 1))
    write_film(folder / "00", 9)
    second = run(folder, output)
    assert [second[name]["index"] for name in ("0", "1", "2", "00")] == [0, 1, 2, 3]
    assert second["0"]["outputs"] != first["0"]["outputs"]
    assert second["0"]["replaces"] == [first["0"]["outputs"][0]["path"]]
    assert (output / first["0"]["outputs"][0]["path"]).exists()
    assert second["1"]["warnings"] == ["input_gone"]
    assert second["2"] == first["2"]  # touched, with the same bytes
    write_film(folder / "1", 1)
    assert run(folder, output)["1"]["warnings"] == []


def test_files_that_claim_to_be_one_film(tmp_path):
    folder = tmp_path / "in"
    write_film(folder / "same" / "a", 1)
    write_film(folder / "same" / "b", 1, variant="dx_mono2_12", InstitutionName="elsewhere")
    (folder / "same" / "c").write_bytes((folder / "same" / "a").read_bytes()[:-1000])
    write_film(folder / "same" / "0", 1, tail=CRASH)
    write_film(folder / "clash" / "a", 2)
    write_film(folder / "clash" / "b", 3, StudyInstanceUID="1.2.3.5.3", SOPInstanceUID="1.2.3.3.3")
    write_film(folder / "other" / "a", 4)
    write_film(folder / "other" / "b", 4, SOPInstanceUID="1.2.3.3.99")
    (folder / "link").mkdir()
    os.link(folder / "other" / "a", folder / "link" / "a")
    (folder / "p").mkdir()
    for name in ("1", "2"):
        Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)).save(folder / "p" / name, format="PNG")
    result = run(folder, tmp_path / "out")
    assert {name: status(row) for name, row in result.items() if name != "exit code"} == {
        "same/a": ("done", None),
        "same/b": ("skipped", "duplicate"),
        "same/c": ("failed", "truncated"),
        "same/0": ("failed", "crashed"),
        "clash/a": ("failed", "conflict"),
        "clash/b": ("failed", "conflict"),
        "link/a": ("done", None),
        "other/a": ("skipped", "duplicate"),
        "other/b": ("done", None),
        "p/1": ("done", None),
        "p/2": ("skipped", "duplicate"),
    }
    assert result["same/b"]["duplicate_of"] == result["same/a"]["index"]
    assert result["other/a"]["duplicate_of"] == result["link/a"]["index"]
    assert result["p/2"]["duplicate_of"] == result["p/1"]["index"]


def test_a_copy_is_run_once_its_original_is_another_film(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for name in ("replaced", "emptied", "linked", "gone"):
        number = len(name)
        write_film(folder / name / "a", number)
        (os.link if name == "linked" else shutil.copy)(folder / name / "a", folder / name / "b")
    picture_file = folder / "png" / "a"
    picture_file.parent.mkdir()
    Image.fromarray((picture(1) >> 4).astype(np.uint8)).save(picture_file, format="PNG")
    shutil.copy(picture_file, folder / "png" / "b")
    first = run(folder, output)
    assert {status(row) for name, row in first.items() if name.endswith("b")} == {("skipped", "duplicate")}
    for name in ("replaced", "linked"):
        (folder / name / "a").unlink()
        write_film(folder / name / "a", 20 + len(name))
    (folder / "emptied" / "a").write_bytes(b"")
    (folder / "gone" / "a").unlink()
    Image.fromarray((picture(2) >> 4).astype(np.uint8)).save(picture_file, format="PNG")
    second = run(folder, output)
    for name in ("replaced", "emptied", "linked", "png"):
        assert status(second[f"{name}/b"]) == ("done", None)
        assert second[f"{name}/b"]["outputs"] == first[f"{name}/a"]["outputs"]
    assert status(second["gone/b"]) == ("skipped", "duplicate")  # its original's result stands
    assert run(folder, output) == second


def test_a_film_under_another_patient_is_no_copy(tmp_path):
    folder = tmp_path / "in"
    write_film(folder / "patient" / "a", 1, PatientID="one")
    write_film(folder / "patient" / "b", 1, PatientID="two")
    write_film(folder / "study" / "a", 2)
    write_film(folder / "study" / "b", 2, StudyInstanceUID="1.2.3.5.99")
    result = run(folder, tmp_path / "out")
    assert result.pop("exit code") == 4
    assert {status(row) for row in result.values()} == {("failed", "conflict")}


@pytest.mark.parametrize("kept", [".run/inputs.jsonl", "manifest.jsonl"])
def test_a_row_that_one_journal_lost_comes_back(tmp_path, kept):
    folder, output = write_folder(tmp_path / "in", 2), tmp_path / "out"
    whole = run(folder, output)
    journal = output / ({"manifest.jsonl", ".run/inputs.jsonl"} - {kept}).pop()
    lines = journal.read_bytes().splitlines(keepends=True)
    for lost in range(len(lines)):
        journal.write_bytes(b"".join(lines[: len(lines) - lost]))
        assert run(folder, output).keys() == whole.keys()
        assert {name: status(row) for name, row in rows(folder, output).items()} == {
            name: status(row) for name, row in whole.items() if name != "exit code"
        }


class Swap:
    """The next film is replaced by another patient's, under its name, while a run is at work."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, data):
        for number in range(3):
            path = self.folder / str(number)
            if str(path) != data["image"]:
                write_film(path.with_suffix(".new"), 20 + number).replace(path)
        return data


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"objects": ["sc", "overlay"]}])
def test_a_film_replaced_under_its_name_lends_nobody_its_pixels(tmp_path, options):
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(3):
        write_film(folder / str(number), number)
    engine = evaluator(folder, output, **options)
    engine.chain.preprocessing = Compose([Swap(folder), *engine.chain.preprocessing.transforms])
    engine.run()
    result = rows(folder, output)
    assert {status(row) for row in result.values()} <= {("done", None), ("failed", "changed")}
    assert ("failed", "changed") in {status(row) for row in result.values()}
    settled = run(folder, output, **options)  # of itself, without being asked to try again
    assert settled.pop("exit code") == 0
    undisturbed = run(folder, tmp_path / "undisturbed", **options)
    assert {name: row["outputs"] for name, row in settled.items()} == {
        name: row["outputs"] for name, row in undisturbed.items() if name != "exit code"
    }
    for row in settled.values():
        ds = pydicom.dcmread(output / row["outputs"][0]["path"])
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == row["sop_uid"]


def test_a_film_of_equal_size_and_time_is_another_film(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    write_film(folder / "a", 1)
    os.utime(folder / "a", ns=(1, 1))
    size = (folder / "a").stat().st_size
    first = run(folder, output)["a"]
    write_film(folder / "a", 2)
    os.utime(folder / "a", ns=(1, 1))
    assert (folder / "a").stat().st_size == size
    second = run(folder, output)["a"]
    assert second["study_uid"] != first["study_uid"]
    assert second["replaces"] == [first["outputs"][0]["path"]]
    assert (output / first["outputs"][0]["path"]).exists()


class Remove:
    """The output folder goes away while a run is at work."""

    def __init__(self, output, again):
        self.output, self.again = output, again

    def __call__(self, data):
        shutil.rmtree(self.output, ignore_errors=True)
        if self.again:
            self.output.mkdir()
        return data


@pytest.mark.parametrize("again", [False, True])
def test_an_output_folder_that_goes_away_is_no_success(tmp_path, capsys, again):
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(2):
        write_film(folder / str(number), number)
    engine = evaluator(folder, output)
    engine.chain.preprocessing = Compose([Remove(output, again), *engine.chain.preprocessing.transforms])
    engine.run()
    assert engine.exit_code == 3
    assert "removed or replaced" in capsys.readouterr().err


def test_a_row_whose_input_was_lost_is_void(tmp_path):
    folder, output = write_folder(tmp_path / "in"), tmp_path / "out"
    run(folder, output)
    journal = output / ".run" / "inputs.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:5]) + lines[5][:9])
    result = run(folder, output)
    assert result.pop("exit code") == 0
    assert len((output / "manifest.csv").read_text().splitlines()) == 1 + len(result)
    assert len({row["index"] for row in result.values()}) == len(result)


def test_each_pass_opens_a_film_once(tmp_path):
    """The kernel's own count, of a run with every object and a report."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    folder, output, log = tmp_path / "in", tmp_path / "out", tmp_path / "log"
    write_film(folder / "film", 1)
    words = ["-m", "monai_cxr_vae", "score", folder, "--output", output, "--objects", "sc", "overlay", "sr"]
    subprocess.run([strace, "-f", "-e", "trace=open,openat", "-o", log, sys.executable, *words], check=True)
    opened = [line for line in log.read_text().splitlines() if f'"{folder}/film"' in line]
    assert len(opened) == 2  # to see what it is, and to run it


def test_strict_view_judges_what_was_done_before(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    write_film(folder / "a", 1, ViewPosition="", PatientOrientation=None)
    first = run(folder, output)
    assert (status(first["a"]), first["a"]["warnings"]) == (("done", None), ["view_unknown"])
    strict = run(folder, output, strict_view=True)
    assert status(strict["a"]) == ("skipped", "view_unknown")
    assert strict["a"]["replaces"] == [first["a"]["outputs"][0]["path"]]
    again = run(folder, output)
    assert (status(again["a"]), again["a"]["outputs"]) == (("done", None), first["a"]["outputs"])


def test_a_damaged_result_is_written_again(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    write_film(folder / "a", 1)
    run(folder, output)
    before = tree(output)
    next(output.rglob("*.dcm")).write_bytes(b"half")
    run(folder, output)
    assert tree(output) == before


def test_a_manifest_without_sizes_is_completed(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    write_film(folder / "a", 1)
    result = run(folder, output)
    journal = output / "manifest.jsonl"
    row = json.loads(journal.read_text())
    del row["outputs"][0]["size"]
    journal.write_text(json.dumps(row) + "\n")
    assert run(folder, output) == result


def test_a_report_asked_for_later_has_its_pictures(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    write_film(folder / "a", 1)
    run(folder, output)
    run(folder, output, report=True)
    page = (output / "report.html").read_text()
    assert '"strip": "' in page


def test_links_and_odd_files(tmp_path):
    folder = tmp_path / "in"
    write_film(folder / "deep" / "film", 1)
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere").symlink_to(folder / "missing")
    os.mkfifo(folder / "pipe")
    write_film(tmp_path / "elsewhere", 2)
    (folder / "outside").symlink_to(tmp_path / "elsewhere")
    write_film(tmp_path / "shelf" / "film", 3)
    for name in ("shelf", "shelf again"):
        (folder / name).symlink_to(tmp_path / "shelf")
    (folder / os.fsdecode(b"\xff\xfe name")).write_bytes(b"x" * 200)
    result = run(folder, tmp_path / "out", manifest_paths=True)
    assert result.pop("exit code") == 0
    assert "/in/\\udcff\\udcfe name" in (tmp_path / "out" / "manifest.csv").read_text(encoding="utf-8")
    assert {name: status(row) for name, row in result.items()} == {
        "deep/film": ("done", None),
        "nowhere": ("skipped", "not_a_file"),
        "pipe": ("skipped", "not_a_file"),
        "outside": ("done", None),
        "shelf/film": ("done", None),
        os.fsdecode(b"\xff\xfe name"): ("skipped", "not_dicom"),
    }


def test_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    folder, listed = tmp_path / "in", os.scandir
    write_film(folder / "open" / "film", 1)
    write_film(folder / "locked" / "film", 2)

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = run(folder, tmp_path / "out")
    assert result.pop("exit code") == 8
    assert {name: status(row) for name, row in result.items()} == {
        "locked": ("failed", "read_error"),
        "open/film": ("done", None),
    }


@pytest.mark.parametrize(("content", "code"), [("nothing", 2), ("text", 2), ("broken", 4)])
def test_exit_code_describes_the_folder(tmp_path, content, code):
    folder = tmp_path / "in"
    folder.mkdir()
    if content == "text":
        (folder / "x").write_text("no film")
    if content == "broken":
        path = write_film(folder / "x", 1)
        path.write_bytes(path.read_bytes()[:-1000])
    assert run(folder, tmp_path / "out")["exit code"] == code
    engine = evaluator(folder, tmp_path / "out")
    engine.run()
    with pytest.raises(SystemExit) as stopped:
        engine.finish()
    assert stopped.value.code == code


def test_folders_that_cannot_be_used(finished, tmp_path):
    folder, output, _ = finished
    with pytest.raises(InputError, match="other settings"):
        evaluator(folder, output, objects=["sc"]).run()
    for source, target in (
        (tmp_path, tmp_path / "out"),
        (tmp_path / "out" / "in", tmp_path / "out"),
        (tmp_path, tmp_path),
    ):
        source.mkdir(parents=True, exist_ok=True)
        with pytest.raises(InputError, match="within each other"):
            evaluator(source, target).run()
    with pytest.raises(InputError, match="there is no"):
        evaluator(tmp_path / "absent", tmp_path / "out2").run()
    shutil.copytree(output, tmp_path / "copy", ignore=shutil.ignore_patterns(".run"))
    with pytest.raises(InputError, match="manifest without"):
        evaluator(folder, tmp_path / "copy", objects=["sc", "overlay"]).run()


def test_two_runs_do_not_share_an_output_folder(finished):
    folder, output, _ = finished
    engine = evaluator(folder, output, objects=["sc", "overlay"])
    with (
        FolderRun(engine.dataset, output, engine.chain, engine.provenance, engine.options),
        pytest.raises(InputError, match="another run"),
    ):
        engine.run()


def test_input_is_only_read(finished):
    folder, _, _ = finished
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}
    list(scan(folder, FolderOptions(num_workers=1)))
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")} == before


def test_scan_tells_what_a_run_would_do(finished):
    folder, _, result = finished
    told = {
        str(Path(row["path"]).relative_to(folder)): status(row) for row in scan(folder, FolderOptions(num_workers=1))
    }
    for name, row in result.items():
        if name != "exit code":
            assert told[name] == (("eligible", None) if row["status"] == "done" else status(row))


def test_own_results_are_no_input(finished, tmp_path):
    _, output, _ = finished
    result = run(output, tmp_path / "out")
    assert len(result) > 8
    own = {name: status(row) for name, row in result.items() if name.endswith((".dcm", ".png"))}
    assert set(own.values()) == {("skipped", "own_output")}


def test_nothing_about_a_patient_or_a_path_is_told(tmp_path):
    """The whole program, as a user starts it: standard streams, manifest and names of files."""
    name, identity, place = CANARIES
    folder, output = tmp_path / place, tmp_path / "out"
    said = {"PatientName": name, "PatientID": identity, "StudyDescription": identity, "PatientAge": name}
    for i, tail in enumerate([b"", CRASH, BUG]):
        write_film(folder / f"{identity} {i}", i, tail=tail, **said)
    (folder / f"{identity}.dcm").write_bytes(write_film(tmp_path / "x", 5, **said).read_bytes()[:-1000])
    (folder / name).write_text(name)
    write_film(folder / "bad", 6, PatientBirthDate=name, InstanceNumber=None, StudyInstanceUID=f"1.2.{name}", **said)
    done = subprocess.run([*PROGRAM, str(folder), str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 8
    heard = done.stdout + done.stderr + (output / "manifest.jsonl").read_text() + (output / "manifest.csv").read_text()
    heard += " ".join(str(p.relative_to(output)) for p in output.rglob("*") if ".run" not in p.parts)
    for canary in CANARIES:
        assert canary not in heard.replace(str(folder), "")  # the folder itself is the user's word
    assert (output / ".run").stat().st_mode & 0o077 == 0
    assert (output / ".run" / "inputs.jsonl").stat().st_mode & 0o077 == 0
    objects = list(output.rglob("*.dcm"))
    assert [str(pydicom.dcmread(p).PatientName) for p in objects] == [name]


@pytest.mark.interop
def test_full_disk_leaves_no_half_file(tmp_path):
    """In a mount namespace of its own, the output on 220 kB."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("mount namespaces are not available")
    folder, output = write_folder(tmp_path / "in", 60), tmp_path / "out"
    output.mkdir()
    kept = tmp_path / "kept"
    script = (
        f"mount -t tmpfs -o size=220k none {output} && "
        f"{{ {shlex.join([*PROGRAM, str(folder), str(output)])}; code=$?; cp -a {output} {kept}; exit $code; }}"
    )
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(kept.rglob("*.tmp"))
    lines = (kept / "manifest.jsonl").read_bytes()
    assert lines.endswith(b"\n")
    written = {o["path"]: o["sha256"] for line in lines.splitlines() for o in json.loads(line)["outputs"]}
    assert written
    assert written.items() <= tree(kept).items()
    assert run(folder, kept)["exit code"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_program_goes_on(tmp_path, stop):
    folder, output = write_folder(tmp_path / "in", 120), tmp_path / "out"
    run(folder, tmp_path / "undisturbed")
    command = [*PROGRAM, str(folder), str(output)]
    for goal in (5, 40, 90):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and len(list(output.rglob("*.dcm"))) < goal:
            time.sleep(0.01)
        os.kill(process.pid, stop)
        code = process.wait()
        assert code in {-9: (-9,), -15: (143, 8, 0), -2: (130, 8, 0)}[-stop]
    result = run(folder, output)
    assert result["exit code"] == 0
    assert tree(output) == tree(tmp_path / "undisturbed")
    assert len(rows(folder, output)) == 123
