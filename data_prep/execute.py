"""Runs a function on many tasks: in this process, or in several that end when this one does."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from data_prep.errors import InputError

# Calls a function on each task and gives the results as they come, in any order.
Execute = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Execute]:
    """What runs tasks in this process (one worker), or in several.

    Raises:
        InputError: a worker process was killed; or whatever the function raises.
    """
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has threads may hang
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_prepare_worker, initargs=(os.getpid(),)
    )

    def execute(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        with deaf():
            futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise InputError(
                "A worker process was killed, most likely for want of memory; run again with fewer --workers, "
                "finished sections are kept"
            ) from error

    try:
        yield execute
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Processes and threads started within do not hear Ctrl-C, which a terminal sends to all: who started them hears it
    and ends them, and they print no traceback each."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(parent: int) -> None:
    """End this worker when its parent is gone: a killed parent would leave it waiting for tasks for ever.

    Its progress bars lock out its own threads alone. By itself tqdm takes a semaphore for all processes, which a worker
    that Ctrl-C ends leaves behind: Python would say so below "interrupted".
    """
    tqdm.set_lock(threading.RLock())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
