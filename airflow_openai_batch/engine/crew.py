"""Several steps at once: uploads and downloads mostly wait for the network."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def take_all(steps: Sequence[T], take: Callable[[T], bool], at_once: int = 1) -> None:
    """Take the steps, begun in their order.

    After one returned False or raised an error none is begun any more; those under way are waited for, since each
    leaves the journal in order by itself. A kill (``KeyboardInterrupt`` and its kin) waits for none.

    :param take: takes a step; False where those after it make no sense any more.
    :param at_once: how many may be under way.
    :raises Exception: the first error of a step.
    """
    if at_once <= 1 or len(steps) <= 1:
        for step in steps:
            if not take(step):
                return
        return
    pool = ThreadPoolExecutor(min(at_once, len(steps)), thread_name_prefix="openai-batch")
    running: set[Future[bool]] = set()
    errors: list[BaseException] = []
    go_on = True

    def settle(done: set[Future[bool]]) -> bool:
        errors.extend(error for future in done if (error := future.exception()) is not None)
        return not errors and all(future.result() for future in done)

    try:
        for step in steps:
            if len(running) >= at_once:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                go_on = settle(done)
            if not go_on:
                break
            running.add(pool.submit(take, step))
        settle(wait(running).done)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if errors:
        raise errors[0]
