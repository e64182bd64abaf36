"""Options, markers and fixtures that every part of the tests shares."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No test asserts a time. CI tries the same examples every time; elsewhere each run tries new ones.
settings.register_profile("tests", deadline=None, derandomize=os.environ.get("CXR_VAE_REQUIRE_INTEROP") == "1")
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too")
    parser.addoption("--quick", action="store_true", help="leave out the tests that train, start servers or run tools")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect rather than skip: the closing line then counts only what was asked for."""
    unwanted = set()
    if not config.getoption("--all"):
        unwanted.add("slow")
    if config.getoption("--quick"):
        unwanted |= {"training", "interop"}
    dropped = [item for item in items if any(item.get_closest_marker(name) for name in unwanted)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


@pytest.fixture(autouse=True)
def log_handlers_end_with_their_test() -> Iterator[None]:
    """What a program adds to the root logger writes to the stream that pytest gave to that one test."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in root.handlers[:]:
        if handler not in before:
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def external_films() -> Path:
    """The folder of real films named by ``CXR_VAE_TEST_DATA``."""
    folder = os.environ.get("CXR_VAE_TEST_DATA")
    if not folder:
        pytest.skip("CXR_VAE_TEST_DATA is not set: no external films to test on")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Path of a foreign program; absent it skips the test, or fails it where CI promised the program."""

    # Python packages bring programs of the same names (storescu of pynetdicom, beside that of dcmtk).
    own = Path(sys.executable).parent
    folders = os.pathsep.join(f for f in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(f) != own)

    def find(name: str) -> str:
        path = shutil.which(name, path=folders)
        if path is None:
            message = f"{name} is not installed"
            if os.environ.get("CXR_VAE_REQUIRE_INTEROP") == "1":
                pytest.fail(message + " although CXR_VAE_REQUIRE_INTEROP=1")
            pytest.skip(message)
        return path

    return find
