"""The pool loses the task that is at fault, nothing else, and always comes to an end."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import deque

import numpy as np
import pytest

from monai_cxr_vae.errors import OutputError, WorkerError
from monai_cxr_vae.pool import IsolatedPool, LostTask
from tests.inference.standins import DiesAtFirst, Unloadable, work


def results(tasks, function=work, **options):
    with IsolatedPool(function, **{"workers": 2, "timeout": 60, **options}) as pool:
        return list(pool.map(deque(tasks)))


def test_every_task_is_answered_once():
    assert sorted(results(range(50))) == [(i, i) for i in range(50)]


def test_one_process_answers_in_order():
    assert results(range(20), workers=1) == [(i, i) for i in range(20)]


@pytest.mark.parametrize(("task", "reason"), [("crash", "crashed"), ("bomb", "out_of_memory")])
def test_fault_costs_one_task(task, reason):
    answers = results([1, task, 2, task, 3, 4])
    assert [a for a in answers if a[0] == task] == [(task, LostTask(reason))] * 2
    assert sorted(a for a in answers if a[0] != task) == [(i, i) for i in (1, 2, 3, 4)]


def test_hang_costs_one_task_and_spares_the_slow():
    answers = results(["slow", "hang", "slow", "slow", "slow"], timeout=6, workers=1)
    assert answers.count(("hang", LostTask("timeout"))) == 1
    assert answers.count(("slow", "slow")) == 4


def test_tasks_may_be_added_while_results_come():
    tasks = deque(["start"])
    with IsolatedPool(work, 1) as pool:
        answers = []
        for task, _ in pool.map(tasks):
            answers.append(task)
            if task in ("start", 1):
                tasks.extendleft([2, 1] if task == "start" else [])
                tasks.append("last")
    assert answers == ["start", 1, 2, "last", "last"]


def test_messages_larger_than_a_pipe_pass_while_processes_are_lost():
    large = [np.full(3_000_000, i, np.uint8) for i in range(12)]
    tasks = deque([*large[:6], "crash", *large[6:], "crash"])
    with IsolatedPool(work, 2, in_flight=1) as pool:
        answers = list(pool.map(tasks))
    assert [result for task, result in answers if isinstance(task, str)] == [LostTask("crashed")] * 2
    arrays = [(task, result) for task, result in answers if not isinstance(task, str)]
    assert sorted(int(task[0]) for task, _ in arrays) == list(range(12))
    assert all(np.array_equal(task, result) for task, result in arrays)


def test_pool_is_used_again():
    with IsolatedPool(work, 1) as pool:
        assert list(pool.map(deque([1]))) == [(1, 1)]
        assert list(pool.map(deque())) == []
        assert list(pool.map(deque(["crash"]))) == [("crash", LostTask("crashed"))]
        assert list(pool.map(deque([2]))) == [(2, 2)]


def test_processes_that_are_started_beforehand_work():
    with IsolatedPool(work, 2) as pool:
        pool.start()
        assert sorted(pool.map(deque(range(10)))) == [(i, i) for i in range(10)]


def test_a_bell_ends_the_wait_for_a_slow_task():
    """What has been added meanwhile goes to a process that is idle."""
    bell, rope = multiprocessing.Pipe(duplex=False)
    tasks, answers = deque(["hang"]), []
    with IsolatedPool(work, 2, timeout=20, in_flight=1) as pool:
        rope.send_bytes(b".")
        for task, result in pool.map(tasks, bell):
            answers.append((task, result))
            if task is None:
                tasks.append(1)
    assert answers == [(None, None), (1, 1), ("hang", LostTask("timeout"))]


def test_full_disk_ends_everything():
    with pytest.raises(OutputError, match="disk full"):
        results([1, "full", 2])


def test_process_that_cannot_start_is_an_error():
    with pytest.raises(WorkerError, match="cannot be started"):
        results([1], Unloadable())


@pytest.mark.parametrize(("deaths", "answered"), [(3, True), (100, False)])
def test_a_process_that_dies_at_its_start_is_started_again_a_few_times(tmp_path, deaths, answered):
    with pytest.raises(WorkerError) if not answered else contextlib.nullcontext():
        assert results([1, 2], DiesAtFirst(tmp_path, deaths), workers=1) == [(1, 1), (2, 2)]
    assert len(list(tmp_path.iterdir())) == (deaths if answered else 6)


def test_processes_are_silent_and_have_one_thread(capfd):
    assert results(["noise", "threads"], workers=1) == [("noise", "noise"), ("threads", 1)]
    assert capfd.readouterr() == ("", "")
