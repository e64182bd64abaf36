"""What reading DICOM files leaves behind in the process."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pydicom
import pytest

from monai_cxr_vae.dicom.files import quiet


def silenced() -> tuple[bool, bool, bool, bool]:
    """Whether pydicom's log, Python's warnings, and pydicom's validation in reading and in writing are off."""
    settings = pydicom.config.settings
    with warnings.catch_warnings(record=True) as heard:
        warnings.warn("heard", stacklevel=1)
    return (
        logging.getLogger("pydicom").disabled,
        not heard,
        settings.reading_validation_mode == pydicom.config.IGNORE,
        settings.writing_validation_mode == pydicom.config.IGNORE,
    )


@pytest.fixture(autouse=True)
def _all_is_heard():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert silenced() == (False,) * 4
        yield


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["as they began", "the other way round"])
def test_bodies_that_overlap_are_silent_to_the_end_and_leave_nothing_behind(order):
    filters = list(warnings.filters)
    bodies = [quiet(), quiet()]
    for body in bodies:
        body.__enter__()
        assert silenced() == (True,) * 4
    bodies[order[0]].__exit__(None, None, None)
    assert silenced() == (True,) * 4
    bodies[order[1]].__exit__(None, None, None)
    assert silenced() == (False,) * 4
    assert warnings.filters == filters


def test_threads_leave_nothing_behind():
    start = threading.Barrier(8)

    def work(_: int) -> None:
        start.wait()
        for _ in range(50):
            with quiet():
                time.sleep(0.0005)  # another thread's turn

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert silenced() == (False,) * 4


def test_what_a_body_raises_leaves_nothing_behind():
    with pytest.raises(ValueError, match="from the body"), quiet():
        raise ValueError("from the body")
    assert silenced() == (False,) * 4
