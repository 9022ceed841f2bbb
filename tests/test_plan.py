"""Plans: every executor gives the same bits, a dead worker costs one stage, rivals share work."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers import PROJECT, QUICK_LAB, quick_profile, start_python
from ulelib.exploiters import EXPLOITERS
from ulelib.jobs import cluster as cluster_module
from ulelib.jobs import execute, executors, plan
from ulelib.jobs.cluster import DaskExecutor, _compute_shared, dask_executor
from ulelib.jobs.executors import InProcess, Processes, pool
from ulelib.jobs.lab import Lab
from ulelib.jobs.store import Store
from ulelib.profiles import PROFILES
from ulelib.settings import key_of, op
from ulelib.specs import Noise, Run, Stage, needs, stages_of


@pytest.fixture(autouse=True)
def quick_smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())


def wanted() -> list[Stage]:
    """Two exploiters on ULEO and one on clean images: three trainings, one perturbation."""
    lab = Lab("smoke")
    cells = lab.cells(["clean"], ["standard"]) + lab.cells(["ULEO"], ["standard", "gray"])
    return [cell.stage for cell in cells]


def numbers(store: Store) -> list[Any]:
    """What the stages gave, without how long they took."""
    told: list[Any] = []
    for stage in stages_of(wanted()):
        if isinstance(stage, Noise):
            told.append(execute.load(stage, store).delta)
        else:
            result = execute.record(stage, store)["result"]
            told.append({name: v for name, v in result.items() if name != "seconds"})
    return told


def same(first: list[Any], second: list[Any]) -> bool:
    return all(
        torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
        for one, two in zip(first, second, strict=True)
    )


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("in-process"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "smoke", quick_profile())
        plan.run(wanted(), store)
    return store


def test_every_stage_stands_once_and_behind_what_it_needs() -> None:
    found = stages_of([*wanted(), *wanted()])
    assert [type(stage) for stage in found] == [Run, Noise, Run, Run]
    for place, stage in enumerate(found):
        assert all(needed in found[:place] for needed in needs(stage))


def test_titles_say_what_is_computed() -> None:
    clean, _, gray = wanted()
    assert plan.title(clean) == "training: standard, convnet, seed 0, on clean shapes"
    assert plan.title(gray) == (
        "training: gray, convnet, seed 0, on exact noise: Bilevel (identity) for shapes, seed 0"
    )
    assert isinstance(clean, Run)
    early = replace(clean, recipe=replace(clean.recipe, epochs=4, stop_after=2))
    assert ", 2 of 4 epochs, seed 0" in plan.title(early)
    hardened = replace(clean, exploiter=replace(EXPLOITERS["at"], mix=op("mixup")))
    assert plan.title(hardened).startswith("training: mixup adversarial, convnet")


def test_a_pool_shares_out_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = [pool(), pool(2), pool(3, 5)]
    for gpus in (1, 2):  # each has a group of workers
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        made.append(pool())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for said in ("3", "6", "0", "many"):  # fewer than are there; more; not understood
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        made.append(pool(2))
    assert [(one._max_workers, one._threads) for one in made] == [
        *((8, 1), (2, 4), (3, 5)),
        *((3, 2), (6, 1)),
        *((2, 3), (2, 4), (2, 4), (2, 4)),
    ]
    for one in made:
        one.shutdown()


def test_without_shared_memory_this_process_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_semaphores(*_: object) -> Processes:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(executors, "Processes", no_semaphores)
    with pytest.warns(UserWarning, match="/dev/shm"):
        assert isinstance(pool(2, 1), InProcess)


class Deadly(Processes):
    """A pool whose process dies with the first perturbation that it is given, `deaths` times."""

    def __init__(self, deaths: int) -> None:
        super().__init__(2, 1)
        self.deaths, self.given = deaths, 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.given += 1
        if isinstance(args[0], Noise) and self.deaths:
            self.deaths -= 1
            return super().submit(die)
        return super().submit(fn, *args, **kwargs)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_dies_loses_its_stage_and_no_other(in_process: Store, tmp_path: Path) -> None:
    """And all that the pool computes is what one process computes, bit for bit."""
    store = Store(tmp_path)
    with Deadly(deaths=1) as executor:
        plan.run(wanted(), store, executor)
        assert executor.given == 4 + 1  # the four stages, and the perturbation again
    assert same(numbers(store), numbers(in_process))


@pytest.mark.slow
def test_a_stage_that_kills_its_worker_again_and_again_is_given_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with Deadly(deaths=99) as executor, pytest.raises(plan.PlanFailed, match="1 of 4") as caught:
        plan.run(wanted(), store, executor)
    (error,) = caught.value.exceptions
    assert "noise: Bilevel (identity)" in error.__notes__[0]
    clean, *protected = wanted()
    assert store.find(clean) and not any(store.find(one) for one in protected)


ENDLESS = """
from pathlib import Path
from ulelib.jobs import plan
from ulelib.jobs.executors import pool
from ulelib.jobs.lab import Lab
lab = Lab("smoke", store=Path(os.environ["WORK"]))
with pool(1, 1) as executor:
    plan.run([lab.noise("ULEO", stop_error=1e-9, max_rounds=1_000_000)], lab.store, executor)
"""


@pytest.mark.slow
def test_a_killed_plan_takes_its_workers_along(tmp_path: Path) -> None:
    """They would keep their stages locked, and then their memory, for nobody."""
    lab = Lab("smoke", store=tmp_path)
    endless = lab.noise("ULEO", stop_error=1e-9, max_rounds=1_000_000)
    process = start_python(f"import os\n{QUICK_LAB}{ENDLESS}", WORK=tmp_path)
    kill_at_work(process, tmp_path)
    deadline = time.monotonic() + 20
    mine = False
    while not mine:
        assert time.monotonic() < deadline, "a worker goes on"
        with lab.store.claim(endless, wait=False) as mine:
            time.sleep(0.1)
    process.communicate(timeout=20)  # ends when nobody has its output open any more


def kill_at_work(process: subprocess.Popen[Any], store: Path) -> None:
    """Kill a process (SIGKILL) as soon as a stage is being computed in `store`."""
    deadline = time.monotonic() + 60
    while not list(store.rglob("*.tmp-*")):
        assert time.monotonic() < deadline, "nothing was begun"
        time.sleep(0.01)
    process.kill()


def test_what_fails_costs_only_what_needs_it(tmp_path: Path) -> None:
    lab = Lab("smoke", store=tmp_path)
    hopeless = lab.noise("ULEO", stop_error=1e-9, max_rounds=1)
    clean = lab.cell("clean").stage
    protected = lab.cell("hopeless", noise=hopeless).stage
    with pytest.raises(plan.PlanFailed) as caught:
        plan.run([protected, clean], lab.store)
    assert len(caught.value.exceptions) == 1
    assert lab.store.find(clean) and not lab.store.find(protected)


def test_what_the_store_holds_is_not_computed_again(in_process: Store) -> None:
    class Forbidden(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("computed again")

    plan.run(wanted(), in_process, Forbidden())


# A plan of a process that was started by hand; it says which stages it computed itself.
BY_HAND = """
import os, sys, time
sys.path.insert(0, "tests")
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_plan import PROFILES, quick_profile, wanted, plan, Store
PROFILES["smoke"] = quick_profile()
folder = Path(os.environ["WORK"])
store = Store(folder / "store")
inner = store.__class__.put
def put(self, spec, fill, made):
    print("MADE", type(spec).__name__)
    time.sleep(float(os.environ["DAWDLE"]))
    return inner(self, spec, fill, made)
store.__class__.put = put
plan.LOOK_AGAIN = 0.2
(folder / f"ready-{os.getpid()}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.02)
plan.run(wanted(), store)
"""


@pytest.mark.slow
def test_two_processes_on_one_store_share_the_work(in_process: Store, tmp_path: Path) -> None:
    both = [start_python(BY_HAND, WORK=tmp_path, DAWDLE="1.5") for _ in range(2)]
    outputs = [one.communicate(timeout=120)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], outputs
    made = [output.count("MADE") for output in outputs]
    assert sum(made) == 4 and min(made) >= 1, outputs
    assert same(numbers(Store(tmp_path / "store")), numbers(in_process))


def test_what_cannot_be_sent_costs_its_own_stage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    executor = DaskExecutor(InProcess(), store, "", False, workers=lambda: 1, died=())
    (cell,) = Lab("smoke", store=tmp_path).cells(["ULEO"])
    (noise,) = needs(cell.stage)
    assert store.find(noise) is None
    future = executor.submit(plan.compute_here, cell.stage, str(tmp_path))
    assert isinstance(future.exception(), KeyError)


# --- a real cluster ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Dask scheduler and two workers, each a process of its own; the scheduler's address."""
    pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("cluster")
    told = folder / "scheduler.json"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")]),
        "OMP_NUM_THREADS": "1",
        "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
    }

    def start(*command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *command, *files, "--no-dashboard"],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def add_worker() -> None:
        running.append(start("worker", "--nworkers", "1", "--nthreads", "1", "--no-nanny"))

    files = ["--scheduler-file", str(told)]
    running = [start("scheduler", "--host", "127.0.0.1", "--port", "0")]
    deadline = time.monotonic() + 60
    while not told.exists():
        assert running[0].poll() is None and time.monotonic() < deadline, "no scheduler"
        time.sleep(0.1)
    add_worker()
    add_worker()
    yield SimpleNamespace(
        address=json.loads(told.read_text())["address"], running=running, add_worker=add_worker
    )
    for one in reversed(running):
        one.kill()
        one.wait()


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["one folder", "folders of their own"])
def test_a_dask_cluster_gives_the_same_bits(
    cluster: Any, shared: bool, in_process: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    if not shared:  # as on machines that have no disk in common
        monkeypatch.setattr(cluster_module, "_reaches", nowhere)
    with dask_executor(cluster.address, store) as executor:
        given = handed_out(executor)
        plan.run(wanted(), store, executor)
    assert sorted(given) == sorted(map(key_of, stages_of(wanted())))  # each stage once
    assert same(numbers(store), numbers(in_process))


def handed_out(executor: Any) -> list[str]:
    """The keys of the stages that an executor is given from now on."""
    given, submit = [], executor.submit

    def recorded(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        given.append(key_of(args[0]))
        return submit(fn, *args, **kwargs)

    executor.submit = recorded
    return given


@pytest.mark.slow
def test_a_killed_dask_worker_costs_its_stage(
    cluster: Any, in_process: Store, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    victim = cluster.running[-1]
    threading.Thread(target=kill_at_work, args=(victim, tmp_path), daemon=True).start()
    with dask_executor(cluster.address, store) as executor:
        given = handed_out(executor)
        plan.run(wanted(), store, executor)
    assert len(set(given)) == 4 and len(given) <= 5  # at most the killed stage again
    assert victim.wait(5) == -9
    cluster.add_worker()
    assert same(numbers(store), numbers(in_process))


def nowhere(folder: str, token: str) -> bool:
    return False


def test_a_scheduler_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster_module, "PATIENCE", 0.5)
    with (
        pytest.raises(OSError, match="no Dask scheduler answers at tcp://127.0.0.1:9"),
        dask_executor("tcp://127.0.0.1:9", Store(tmp_path)),
    ):
        pass


def test_an_encrypted_scheduler_without_certificates_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with (
        pytest.raises(OSError, match="start scheduler and workers with tcp://"),
        dask_executor("tls://127.0.0.1:9", Store(tmp_path)),
    ):
        pass


def test_specs_are_picklable_and_keep_their_keys() -> None:
    for stage in stages_of(wanted()):
        again = pickle.loads(pickle.dumps(stage))
        assert again == stage and key_of(again) == key_of(stage)


@pytest.mark.parametrize("number", [0, -1])
def test_no_workers_compute_nothing(number: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers is"):
        pool(number)
    with pytest.raises(ValueError, match="threads is"):
        pool(1, number)
    with pytest.raises(ValueError, match="at_once is"):
        plan.run(wanted(), Store(tmp_path), at_once=number)


def test_a_worker_that_joins_late_and_does_not_reach_the_store_says_so(tmp_path: Path) -> None:
    """It would compute into a folder of its own, and the plan would wait for ever."""
    with pytest.raises(OSError, match="does not reach the store"):
        _compute_shared(wanted()[0], str(tmp_path), "no-such-token")


def test_workers_that_come_later_are_given_work(tmp_path: Path) -> None:
    work: Any = SimpleNamespace(_max_workers=1)
    asked, fixed = (plan._Plan([], Store(tmp_path), work, at_once, None) for at_once in (None, 2))
    assert (asked._width(), fixed._width()) == (1, 2)
    work._max_workers = 16
    assert (asked._width(), fixed._width()) == (16, 2)


class Stranger(InProcess):
    """A worker of another version, whose artifacts are not those that were asked for."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(lambda: {"artifact.json": b"{}"})


def test_what_a_worker_sends_and_cannot_be_used_costs_its_stage(tmp_path: Path) -> None:
    with pytest.raises(plan.PlanFailed, match="2 of 4") as caught:
        plan.run(wanted(), Store(tmp_path), Stranger())
    assert "training: standard, convnet" in caught.value.exceptions[0].__notes__[0]
