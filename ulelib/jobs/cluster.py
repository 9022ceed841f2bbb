"""Dask: a plan's stages on a cluster, whose workers may or may not reach the store.

with dask_executor("tcp://HOST:PORT", store) as executor:
    plan.run(wanted, store, executor)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from functools import cache
from pathlib import Path
from typing import Any

from ulelib import machine
from ulelib.jobs.execute import compute
from ulelib.jobs.plan import compute_here
from ulelib.jobs.store import Store, pack, unpack
from ulelib.specs import Stage, needs

PATIENCE = 20  # seconds for a scheduler to answer
QUEUE = 600  # seconds for its first worker to come; a batch system may have to find a place for it


@contextlib.contextmanager
def dask_executor(address: str, store: Store) -> Iterator[Executor]:
    """An executor on a Dask cluster, e.g. of `dask scheduler` and `dask worker`, or dask-jobqueue.

    Workers that reach the store's folder write into it. Others compute in a folder of their own:
    what a stage needs is sent to them, and what it made comes back and is verified here. The
    first workers decide which; later ones must be like them.

    Args:
        address: of the scheduler, `tcp://HOST:PORT`; for `tls://` Dask's own configuration must
            name the certificates (`distributed.comm.tls`).

    Raises:
        ImportError: Dask is missing; says how to install it.
        OSError: no scheduler answers there, or it has no worker.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed.comm import CommClosedError
    except ImportError as error:
        raise ImportError('Dask is missing: pip install ".[cluster]"') from error
    try:
        client = Client(address, set_as_default=False, timeout=PATIENCE)
    except TypeError as error:  # of an encrypted connection without certificates
        raise OSError(
            f"{address} cannot be reached ({error}): start scheduler and workers with tcp://, or "
            "name the certificates in Dask's configuration, under distributed.comm.tls"
        ) from error
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, "
            f"and workers with `dask worker {address} --nthreads 1`"
        ) from error
    with client, _token(store) as token:
        try:
            client.wait_for_workers(1, timeout=QUEUE)
        except TimeoutError as error:
            raise OSError(
                f"the Dask scheduler at {address} had no worker for {QUEUE} seconds: start some "
                f"with `dask worker {address} --nthreads 1`"
            ) from error
        shared = all(client.run(_reaches, str(store.folder), token).values())
        inner = client.get_executor(retries=0, pure=False)
        yield DaskExecutor(
            inner,
            store,
            token,
            shared,
            workers=lambda: len(client.nthreads()),
            died=(KilledWorker, CommClosedError, CancelledError, asyncio.CancelledError),
        )


class DaskExecutor(Executor):
    """Dask's own executor, and what is sent to and fro where workers do not reach the store.

    Attributes:
        died: what a future raises whose worker is gone, rather than its stage failed.
    """

    def __init__(
        self,
        inner: Executor,
        store: Store,
        token: str,
        shared: bool,
        *,
        workers: Callable[[], int],
        died: tuple[type[BaseException], ...],
    ) -> None:
        self._inner, self._store, self._token = inner, store, token
        self._shared, self._workers, self.died = shared, workers, died

    @property
    def _max_workers(self) -> int:
        return self._workers()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn is not compute_here:
            return self._inner.submit(fn, *args, **kwargs)
        stage, folder = args
        if self._shared:
            return self._inner.submit(_compute_shared, stage, folder, self._token)
        try:
            needed = [(one, pack(one, self._store)) for one in needs(stage)]
        except (OSError, KeyError) as error:  # found damaged just now: it costs this stage alone
            lost: Future[Any] = Future()
            lost.set_exception(error)
            return lost
        return self._inner.submit(_compute_away, stage, needed)


def _reaches(folder: str, token: str) -> bool:
    return (Path(folder) / token).exists()


def _compute_shared(stage: Stage, folder: str, token: str) -> bool:
    """`compute_here`, on a worker that must reach the store, also if it joined later."""
    if not _reaches(folder, token):
        raise OSError(f"a worker that joined later does not reach the store {folder}")
    _prepare()
    return compute_here(stage, folder)


@contextlib.contextmanager
def _token(store: Store) -> Iterator[str]:
    """The name of a file in the store, by which a worker knows that the folder is the same."""
    store.folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".shared-", dir=store.folder)
    os.close(handle)
    try:
        yield Path(name).name
    finally:
        Path(name).unlink(missing_ok=True)


def _compute_away(stage: Stage, needed: list[tuple[Stage, dict[str, bytes]]]) -> dict[str, bytes]:
    """What a worker runs that has no part in the store."""
    _prepare()
    own = _own_store()
    for one, files in needed:
        unpack(one, own, files)
    compute(stage, own)
    return pack(stage, own)


@cache
def _prepare() -> None:
    """Once in each worker."""
    machine.prepare()


def _own_store() -> Store:
    """A worker's own store, for as long as it lives."""
    return Store(Path(_own_folder().name))


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ulelib-worker-")
