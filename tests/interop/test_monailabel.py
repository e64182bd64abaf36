"""A real MONAI Label server without the internet: the bundle in the stock app, and the app of the example.

What one film gives in four formats and over DICOMweb is told by ``test_one_film_in_every_form``.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from monai_cxr_vae import load_model, read_radiograph
from monai_cxr_vae.data.phantom import render, write_phantoms
from monai_cxr_vae.data.writers import file_sha256
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.model import RadiographVAE, save_model
from monai_cxr_vae.scores import COLUMNS
from monai_cxr_vae.scoring import detail_films, fit_scorer
from tests.dicom.sources import film as dicom_header
from tests.dicom.sources import to_bytes
from tests.interop.conftest import Orthanc
from tests.interop.servers import Answer, ask, ask_form, ask_json, running

pytestmark = pytest.mark.interop
EXAMPLE = Path(__file__).parents[2] / "examples" / "monailabel"
SIZE = 64
SHAPE = (64, 53)  # at this size a reconstruction has as many pixels as its film
FORMS = {"png": "one_png.png", "dx": "one_dx.dcm", "cr": "one_cr.dcm", "nifti": "one_nifti.nii.gz"}
TWO_IN_A_SERIES = "1.2.3.6.3"


@dataclass(frozen=True)
class Server:
    """A running server and the folder of its app."""

    url: str
    app: Path

    @property
    def weights(self) -> Path:
        return self.app / "model" / "cxr_vae" / "models" / "model.pt"

    def get(self, path: str) -> Any:
        return ask(self.url + path).json()

    def infer(self, image: str, /, output: str = "", model: str = "cxr_vae", **params: Any) -> Answer:
        query = f"/infer/{model}?image={image}" + (f"&output={output}" if output else "")
        return ask_form(self.url + query, {"params": json.dumps(params)}, {})

    def picture(self, image: str, show: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.infer(image, "image", show=show, result_extension=".png").body)))

    def scores(self, image: str) -> dict[str, Any]:
        return self.infer(image, "json").json()

    def next_film(self, strategy: str = "most_unusual") -> dict[str, Any]:
        return ask_json(f"{self.url}/activelearning/{strategy}", {}).json()

    def label(self, image: str, file: Path) -> Answer:
        return ask_form(f"{self.url}/datastore/label?image={image}&tag=final", {"params": "{}"}, {"label": file}, "PUT")

    def films(self) -> dict[str, dict[str, Any]]:
        """What the server's list of films says about each."""
        return {name: film["image"]["info"] for name, film in self.get("/datastore/?output=all")["objects"].items()}

    def train(self, **request: Any) -> dict[str, Any]:
        """Train to the end; the task as the server tells it."""
        ask_json(f"{self.url}/train/cxr_vae", {"max_epochs": 1, "device": "cpu"} | request).json()
        return self.until(lambda: self.get("/train/"), lambda task: task["status"] not in ("SUBMITTED", "RUNNING"))

    def scored(self) -> dict[str, dict[str, Any]]:
        """The films, once the server has by itself scored them all with its present weights."""
        digest = file_sha256(self.weights)
        return self.until(self.films, lambda films: all(info.get("weights") == digest for info in films.values()))

    @staticmethod
    def until(look: Any, enough: Any) -> Any:
        deadline = time.monotonic() + 600
        while not enough(seen := look()):
            assert time.monotonic() < deadline, seen
            time.sleep(0.3)
        return seen


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Environment variables with the Python of install.sh first; without it the tests skip, or fail in CI."""
    folder = Path(os.environ.get("LABEL_ENV", EXAMPLE.parents[1] / ".venv-label"))
    if not (folder / ".installed").exists():
        message = f"no MONAI Label in {folder}: examples/monailabel/install.sh makes it"
        pytest.fail(message) if os.environ.get("CXR_VAE_REQUIRE_INTEROP") == "1" else pytest.skip(message)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "LABEL_ENV": str(folder), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as it is, with the weights of a small model that knows phantoms."""
    folder = tmp_path_factory.mktemp("bundle") / "cxr_vae"
    shutil.copytree(Path(bundle_root()) / "configs", folder / "configs")
    write_phantoms(folder.parent / "phantoms", 60, format="png", size=128, seed=1)
    save_model(phantom_model(folder.parent / "phantoms"), folder / "models" / "model.pt")
    return folder


def phantom_model(folder: Path) -> RadiographVAE:
    """Principal components of films, with an offset that any training takes away, and fitted scores."""
    data = [{"image": str(path)} for path in sorted(folder.iterdir())]
    torch.manual_seed(0)
    model = RadiographVAE(image_size=SIZE, channels=(8, 8, 8), latent_size=16, fit="letterbox").eval()
    images = torch.cat([model.preprocess(read_radiograph(item["image"])) for item in data])
    model.network.initialize_linear(images)
    with torch.no_grad():
        model.network.linear_decoder.bias += 0.1
    fit_scorer(model, detail_films(model, data[:40], folder.parent / "cache"), detail_films(model, data[40:]))
    return model


@pytest.fixture(scope="module")
def one_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one film as DX, as CR of the other polarity, as 8-bit PNG and as NIfTI."""
    folder = tmp_path_factory.mktemp("one_film")
    words = np.rint(render(77, SHAPE).image * 4095).astype(np.uint16)
    for form, variant, number in (("dx", "dx_mono2_12", 1), ("cr", "cr_mono1", 2)):
        header = dicom_header(variant, SHAPE)
        header.PixelData = (4095 - words if form == "cr" else words).tobytes()
        for level in ("Study", "Series", "SOP"):
            setattr(header, f"{level}InstanceUID", f"1.2.3.{len(level)}.{number}")
        (folder / FORMS[form]).write_bytes(to_bytes(header))
    Image.fromarray(np.rint(words / 4095 * 255).astype(np.uint8)).save(folder / FORMS["png"])
    nibabel.save(
        nibabel.Nifti1Image(words.T.astype(np.int16)[..., None], np.diag([-1, -1, 1, 1])), folder / FORMS["nifti"]
    )
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four films without a finding, one with an opacity, one that cannot be read."""
    folder = tmp_path_factory.mktemp("films")
    write_phantoms(folder, 5, format="png", size=128, seed=7)
    planted = folder / "phantom_0002.png"
    pixels = np.asarray(Image.open(planted)).astype(float)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    opacity = 200 * np.exp(-((x - 35) ** 2 + (y - 55) ** 2) / 200)
    Image.fromarray(np.clip(pixels + opacity, 0, 255).astype(np.uint8)).save(planted)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def stock(
    own_network: None,
    environment: dict[str, str],
    bundle: Path,
    one_film: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """MONAI Label's own app for bundles, with ours in it."""
    folder = tmp_path_factory.mktemp("stock")
    python = ["python", "-m", "monailabel.main"]
    copy = [*python, "apps", "--download", "--name", "monaibundle", "--output", "."]
    subprocess.run(copy, cwd=folder, env=environment, check=True, capture_output=True)
    app, url = folder / "monaibundle", "http://127.0.0.1:18101"
    shutil.copytree(bundle, app / "model" / "cxr_vae")
    command = [*python, "start_server", "--app", str(app), "--studies", str(one_film), "--host", "127.0.0.1"]
    command += ["--port", url[-5:], "--conf", "models", "cxr_vae", "--conf", "zoo_source", "local"]
    formats = {"MONAI_LABEL_DATASTORE_FILE_EXT": '["*.png", "*.dcm", "*.nii.gz"]'}
    with running(command, f"{url}/info/", folder / "log", cwd=folder, env=environment | formats):
        yield Server(url, app)


def example(stack: ExitStack, studies: str, port: int, bundle: Path, folder: Path, environment: dict) -> Server:
    """The example's server with its own copy of the bundle."""
    shutil.copytree(bundle, folder / "model" / "cxr_vae")
    url = f"http://127.0.0.1:{port}"
    options = ["--port", str(port), "--conf", "findings", "opacity,tube", "--conf", "random_share", "1"]
    command = ["bash", str(EXAMPLE / "serve.sh"), studies, str(folder), *options]
    stack.enter_context(running(command, f"{url}/info/", folder / "log", env=environment))
    return Server(url, folder)


@pytest.fixture(scope="module")
def server(
    own_network: None, environment: dict[str, str], bundle: Path, films: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with ExitStack() as stack:
        yield example(stack, str(films), 18102, bundle, tmp_path_factory.mktemp("label"), environment)


@pytest.fixture(scope="module")
def archive(
    orthanc: Orthanc,
    environment: dict[str, str],
    bundle: Path,
    one_film: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """The example's server on the films of an Orthanc."""
    for form in ("dx", "cr"):
        assert ask(f"{orthanc.url}/instances", (one_film / FORMS[form]).read_bytes()).status == 200
    two = dicom_header("dx_mono2_12", SHAPE)  # one series of two images
    two.PixelData = bytes(2 * SHAPE[0] * SHAPE[1])
    two.StudyInstanceUID, two.SeriesInstanceUID = "1.2.3.5.3", TWO_IN_A_SERIES
    for number in (1, 2):
        two.SOPInstanceUID = f"1.2.3.3.3.{number}"
        assert ask(f"{orthanc.url}/instances", to_bytes(two)).status == 200
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("archive")
        yield example(stack, f"{orthanc.url}/dicom-web", 18103, bundle, folder, environment)


@pytest.fixture(scope="module")
def reconstructed(bundle: Path, one_film: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What ``cxr-vae reconstruct`` makes of the film in each format, (rows, columns) in [0, 1]."""
    out = tmp_path_factory.mktemp("reconstructed") / "out"
    weights = ["--weights", str(bundle / "models" / "model.pt"), "--mark", "False"]
    command = [sys.executable, "-m", "monai_cxr_vae", "reconstruct", str(one_film), "--output", str(out), *weights]
    subprocess.run(command, check=True, capture_output=True)
    found = {}
    for form, name in FORMS.items():
        digest = file_sha256(one_film / name)[:32]
        if form == "nifti":
            found[form] = nibabel.load(out / "images" / f"{digest}.nii.gz").get_fdata().squeeze().T.clip(0, 1)
        elif form == "png":
            found[form] = np.asarray(Image.open(out / "images" / f"{digest}.png")) / 65535
        else:
            study = pydicom.dcmread(one_film / name).StudyInstanceUID
            (path,) = (out / study).rglob("*.dcm")
            result = pydicom.dcmread(path)
            found[form] = result.pixel_array / (2**result.BitsStored - 1)
    return found


# The stock app


def test_stock_app_offers_the_bundle(stock: Server):
    info = stock.get("/info/")
    model = info["models"]["cxr_vae"]
    assert (model["type"], model["dimension"], model["labels"]) == ("segmentation", 2, {"unusual": 1})
    assert model["config"]["show"] == ["mask", "heatmap", "reconstruction"]
    assert list(info["trainers"]) == ["cxr_vae"]
    assert info["datastore"]["total"] == len(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_stock_app_answers_for_every_kind_of_film(stock: Server, form: str):
    parts = stock.infer(f"one_{form}").parts()
    params = json.loads(parts["params"])
    assert params["show"] == "mask"
    assert params.keys() >= COLUMNS.keys()
    if form == "png":
        mask = np.asarray(Image.open(io.BytesIO(parts["image"])))
    else:
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(parts["image"]))
        assert image.shape == (SHAPE[1], SHAPE[0], 1)
        mask = np.asarray(image.dataobj)[..., 0].T
    assert mask.shape == SHAPE
    assert mask.dtype == np.uint8
    heat = stock.picture(f"one_{form}", "heatmap")
    assert set(np.unique(mask)) <= {0, 1}
    clear = np.abs(heat.astype(int) - 127.5) > 1
    np.testing.assert_array_equal(mask[clear] == 1, heat[clear] > 127)


@pytest.mark.parametrize("form", FORMS)
def test_the_server_reconstructs_as_the_command_line_does(
    stock: Server, reconstructed: dict[str, np.ndarray], form: str
):
    shown = stock.picture(f"one_{form}", "reconstruction") / 255
    assert shown.shape == SHAPE
    assert np.abs(shown - reconstructed[form]).max() <= 1 / 255


def test_a_film_may_be_sent_along(stock: Server, archive: Server, one_film: Path):
    stored = stock.scores("one_dx")
    for where in (stock, archive):
        file = {"file": one_film / FORMS["dx"]}
        sent = ask_form(f"{where.url}/infer/cxr_vae?output=json", {"params": "{}"}, file).json()
        assert {name: sent[name] for name in COLUMNS} == {name: stored[name] for name in COLUMNS}


def test_a_client_may_open_a_session_with_a_film(stock: Server, archive: Server, one_film: Path):
    session = ask_form(f"{archive.url}/session/", {}, {"files": one_film / FORMS["dx"]}, "PUT").json()
    answer = ask_form(
        f"{archive.url}/infer/cxr_vae?session_id={session['session_id']}&output=json", {"params": "{}"}, {}
    )
    assert answer.json()["anomaly"] == stock.scores("one_dx")["anomaly"]
    assert Path(session["session_info"]["path"]).is_relative_to(archive.app)


def test_one_film_in_every_form(stock: Server, archive: Server, bundle: Path, one_film: Path):
    """DX, CR and DICOMweb agree to the last bit; 8 bits cost half a grey level and next to nothing of a score.

    NIfTI has no window, so the reader stretches from percentile to percentile; what that cuts off is the largest
    difference of the input. Scores are in standard deviations of normal films.
    """
    model = load_model(bundle / "models" / "model.pt")
    inputs = {form: model.preprocess(read_radiograph(one_film / name)) for form, name in FORMS.items()}
    scores = {form: stock.scores(f"one_{form}") for form in FORMS}
    for name in COLUMNS:
        assert scores["dx"][name] == scores["cr"][name]
        for series in ("1.2.3.6.1", "1.2.3.6.2"):
            assert archive.scores(series)[name] == scores["dx"][name]
    low, high = np.percentile(read_radiograph(one_film / FORMS["dx"]).pixels, (0.5, 99.5))
    cut = max(low, 1 - high)
    for form, input_bound, score_bound in (("cr", 0, 0), ("png", 0.5 / 255, 0.02), ("nifti", cut, 1)):
        assert float((inputs[form] - inputs["dx"]).abs().max()) <= input_bound + 1e-6
        for name in ("quality", "anomaly"):
            assert abs(scores[form][name] - scores["dx"][name]) <= score_bound


def test_stock_app_trains_on_its_labelled_films(stock: Server, one_film: Path):
    before, shown = file_sha256(stock.weights), stock.picture("one_png", "reconstruction")
    for form in FORMS:
        assert stock.label(f"one_{form}", one_film / FORMS["png"]).status == 200
    task = stock.train(run_id="update", val_split=0.25)
    assert task["status"] == "DONE", task["details"]
    assert file_sha256(stock.weights) != before
    assert not np.array_equal(stock.picture("one_png", "reconstruction"), shown)


# The example


def test_annotators_find_their_findings(server: Server):
    info = server.get("/info/")
    assert info["labels"] == ["unusual", "opacity", "tube"]
    assert set(info["strategies"]) == {"most_unusual", "most_unusual_and_random"}


def test_other_names_of_this_computer_and_other_web_pages_are_refused(server: Server):
    """A page under a name that points to this computer is of the same site for the browser."""
    port = server.url.rpartition(":")[2]
    for headers, status in (
        ({"Host": f"localhost:{port}"}, 200),
        ({"Origin": server.url}, 200),
        ({"Host": "elsewhere.example"}, 400),
        ({"Host": f"127.0.0.1.elsewhere.example:{port}"}, 400),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
    ):
        for path in ("/info/", "/datastore/image?image=phantom_0000", "/"):
            assert ask(server.url + path, headers=headers).status == status
    request = urllib.request.Request(f"{server.url}/info/", headers={"Origin": server.url})
    with urllib.request.urlopen(request) as answer:
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def state(server: Server, films: Path) -> dict[Path, bytes]:
    """The program of the server and the films, as they lie there once it writes no more scores of its own accord."""
    server.scored()
    return {
        path: path.read_bytes() for path in (*server.app.glob("*.py"), *films.parent.glob("*.*"), *films.glob("*.*"))
    }


@pytest.mark.parametrize("name", ["..", "../main", "a/b", "a\\b", "/etc/hostname", "a\0"])
def test_no_route_takes_a_path_for_a_name(server: Server, name: str):
    """Every parameter of every route that the server tells of, and of the ones that it does not tell of."""
    routes = [
        (method, path, one["in"], one["name"])
        for path, methods in server.get("/openapi.json")["paths"].items()
        for method, route in methods.items()
        for one in route.get("parameters", [])
    ]
    routes += [("put", "/datastore/", "query", "image"), ("delete", "/datastore/", "query", "id")]
    routes += [("put", "/datastore/updatelabelinfo", "query", "tag")]
    assert {"image", "id", "label", "tag", "model", "session_id", "strategy", "method"} <= {
        route[3] for route in routes
    }
    text = urllib.parse.quote(name, safe="")
    for method, path, where, parameter in routes:
        url = path.replace(f"{{{parameter}}}", text) if where == "path" else f"{path}?{parameter}={text}"
        answer = ask(server.url + url.replace("{model}", "cxr_vae"), method=method.upper())
        assert 400 <= answer.status < 500, (method, url)
        if where == "query" and method != "head":  # which has no body
            assert json.loads(answer.body)["detail"] == "a name must not be a path"


@pytest.mark.parametrize(
    ("query", "name", "status"),
    [
        ("?image=main", "main.py", 422),
        ("?image=new", "film.svs", 422),
        ("", "datastore_v2.json", 422),
        ("", "../new.png", 200),
        ("", "..", 422),
        ("", ".png", 422),
    ],
)
def test_films_are_stored_among_the_films(server: Server, films: Path, query: str, name: str, status: int):
    film, before = (films / "phantom_0001.png").read_bytes(), state(server, films)
    answer = ask_form(f"{server.url}/datastore/image{query}", {"params": "{}"}, {"file": (name, film)}, "PUT")
    assert answer.status == status
    if status == 200:
        assert before.pop(films / "new.png", film) == film
        assert ask(f"{server.url}/datastore/image?id=new", method="DELETE").status == 200
    after = state(server, films)
    assert [path for path in before | after if before.get(path) != after.get(path) and path.suffix != ".json"] == []


def test_what_is_sent_is_not_unpacked(server: Server, films: Path):
    for flag in ("true", "1", "on"):
        file = {"files": films / "phantom_0000.png"}
        assert ask_form(f"{server.url}/session/?uncompress={flag}", {}, file, "PUT").status == 422


def test_only_films_that_were_sent_are_opened(server: Server, films: Path):
    """Not those of another program that keeps its own in the folder for temporary files."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write((films / "phantom_0000.png").read_bytes())
        file.flush()
        for path in (file.name, str(films / "phantom_0000.png"), str(server.weights), "/etc/hostname", ".."):
            answer = server.infer("phantom_0000", "json", image=path)
            assert answer.status == 404
            assert json.loads(answer.body)["detail"] == f"there is no image {path!r}"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"image": ["phantom_0000"]}, "image must be the name of one film"),
        ({"image": {"path": "phantom_0000"}}, "image must be the name of one film"),
        ({"image": None}, "image must be the name of one film"),
        ({"save_label": True, "label_tag": "../../x"}, "a label's name and tag must not be paths"),
        ({"model_filename": "../../model.pt"}, "model_filename must not be a path"),
        ({"result_extension": "/../x.png"}, "result_extension must not be a path"),
    ],
)
def test_parameters_are_no_paths_either(server: Server, films: Path, params: dict, reason: str):
    before = state(server, films)
    answer = server.infer("phantom_0000", "json", **params)
    assert answer.status == 422
    assert json.loads(answer.body)["detail"] == reason
    assert state(server, films) == before


def workers(server: Server) -> list[int]:
    """Processes in the server's folder that were forked from the server of such processes."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                process.joinpath("cwd").resolve() == server.app
                and b"forkserver" in process.joinpath("cmdline").read_bytes()
            ):
                found[int(process.name)] = int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    return [process for process, parent in found.items() if parent in found]


def test_a_film_that_kills_its_reader_costs_one_answer(server: Server):
    server.scored()
    expected = server.scores("phantom_0000")
    (worker,) = workers(server)
    os.kill(worker, signal.SIGKILL)
    answer = server.infer("phantom_0000", "json")
    assert answer.status == 422
    assert json.loads(answer.body)["detail"] == "this film has ended the process that read it"
    again = server.scores("phantom_0000")
    assert {name: again[name] for name in COLUMNS} == {name: expected[name] for name in COLUMNS}
    assert workers(server) != [worker]


def test_a_setting_of_a_training_is_no_program(server: Server):
    task = server.train(device='$__import__("pathlib").Path("ran").touch()')
    assert task["status"] == "ERROR"
    assert any("must not be an expression" in line for line in task["details"])
    assert not (server.app / "ran").exists()


def test_films_are_served_by_their_scores_and_training_refreshes_them(server: Server, films: Path):
    infos = server.scored()
    assert infos["broken"]["unreadable"] == "corrupt"
    readable = {name: info for name, info in infos.items() if not info["unreadable"]}
    assert all(info.keys() >= COLUMNS.keys() for info in readable.values())
    order = sorted(readable, key=lambda name: -readable[name]["anomaly"])
    assert order[0] == "phantom_0002"

    first = server.next_film()
    assert first["id"] == "phantom_0002"
    assert first["anomaly"] == readable["phantom_0002"]["anomaly"]
    assert [server.next_film()["id"] for _ in order[1:]] == order[1:]  # passed over, one after the other
    assert server.next_film()["id"] == order[0]  # all were handed out within the hour: the first again

    assert server.label("phantom_0002", films / "phantom_0002.png").json()["label"] == "phantom_0002"
    assert server.get("/info/")["datastore"]["completed"] == 1
    assert server.next_film()["id"] == order[1]
    drawn = {server.next_film("most_unusual_and_random")["id"] for _ in range(12)}
    assert drawn <= set(order[1:])
    assert len(drawn) > 1

    task = server.train()
    assert task["status"] == "DONE", task["details"]
    after = server.scored()
    assert after["phantom_0000"]["weights"] != infos["phantom_0000"]["weights"]
    assert after["phantom_0000"]["anomaly"] != infos["phantom_0000"]["anomaly"]
    assert server.scores("phantom_0000")["anomaly"] == after["phantom_0000"]["anomaly"]
    assert server.get("/info/")["datastore"]["completed"] == 1  # the label has outlived the scoring


@pytest.mark.parametrize(
    ("image", "options", "status", "reason"),
    [
        ("nobody", {}, 404, "there is no image 'nobody'"),
        ("/etc/hostname", {}, 422, "a name must not be a path"),
        ("phantom_0000", {"model": "other"}, 404, "there is no model 'other', but cxr_vae"),
        ("phantom_0000", {"show": "x"}, 422, "there is no 'x' to show, but mask, heatmap, reconstruction"),
        ("broken", {}, 422, "the picture is damaged or incomplete"),
    ],
)
def test_what_cannot_be_done_is_said(server: Server, image: str, options: dict, status: int, reason: str):
    answer = server.infer(image, **options)
    assert answer.status == status
    assert json.loads(answer.body)["detail"] == reason


def test_weights_that_come_from_outside_are_served(server: Server, bundle: Path):
    """As a client sees it after somebody has put a file into the place of the weights."""
    model = load_model(bundle / "models" / "model.pt")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    before = server.picture("phantom_0000", "reconstruction")
    save_model(model, server.weights)
    assert not np.array_equal(server.picture("phantom_0000", "reconstruction"), before)


# DICOMweb


def test_films_of_an_archive_are_served(archive: Server):
    assert {archive.next_film()["id"], archive.next_film()["id"]} == {"1.2.3.6.1", "1.2.3.6.2"}
    heat = archive.picture("1.2.3.6.1", "heatmap")
    assert heat.shape == SHAPE
    np.testing.assert_array_equal(heat, archive.picture("1.2.3.6.2", "heatmap"))


def test_a_series_of_two_images_is_refused_and_the_others_are_scored(archive: Server):
    answer = archive.infer(TWO_IN_A_SERIES, "json")
    assert answer.status == 422
    assert json.loads(answer.body)["detail"] == "this series holds 2 images, and a film is one"
    infos = archive.scored()
    assert {name for name, info in infos.items() if info["unreadable"]} == {TWO_IN_A_SERIES}
    assert len(infos) == 3


def test_films_of_an_archive_are_not_replaced(archive: Server, one_film: Path):
    file = {"file": one_film / FORMS["dx"]}
    assert ask_form(f"{archive.url}/datastore/image?image=new", {"params": "{}"}, file, "PUT").status == 501


def test_labels_are_not_stored_in_an_archive(archive: Server, one_film: Path):
    answers = [
        archive.label("1.2.3.6.1", one_film / FORMS["png"]),
        archive.infer("1.2.3.6.1", "dicom_seg", label_info=[{"name": "opacity"}]),
    ]
    for answer in answers:
        assert answer.status == 501
        assert "radiographs have no frame of reference, which DICOM SEG needs" in json.loads(answer.body)["detail"]
