"""Whether a task instance is really over, asked before anything that bills is cancelled.

Airflow calls ``on_kill`` for more than a user's "this task shall end": on a clear (when the next try has begun), when
a live triggerer merely loses a trigger, when a pod is evicted. In all of these the next segment goes on with the
batches, so cancelling them would throw paid work away. Only a terminal state of the task instance says that nobody
will. When that can't be found out, nothing is cancelled.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

OVER = frozenset({"success", "failed", "skipped", "removed", "upstream_failed"})


LIVE = frozenset(
    {"running", "deferred", "queued", "scheduled", "restarting", "up_for_retry", "up_for_reschedule", "awaiting_input"}
)


def states_of(*, dag_id: str, task_id: str, run_id: str, map_index: int | None) -> set[str]:
    """Return the states of a task instance, of which there is one; none when it can't be told. Blocks."""
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        states = RuntimeTaskInstance.get_task_states(
            dag_id=dag_id, map_index=map_index, task_ids=[task_id], run_ids=[run_id]
        )
        return {str(getattr(state, "value", state)) for tasks in states.values() for state in tasks.values()}
    except Exception as error:  # noqa: BLE001 - in doubt nothing is done, whatever the doubt
        log.warning("Couldn't find out the state of the task: %s: %s", type(error).__name__, error)
        return set()


def is_over(ti: Any) -> bool:
    """Return whether the task instance is in a terminal state; False when that can't be told. Blocks."""
    states = states_of(dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=_map_index(ti))
    return bool(states) and states <= OVER


def is_live(owner: Mapping[str, str]) -> bool:
    """Return whether the owner of a job is at work, or will be; False when that can't be told. Blocks."""
    if not {"dag_id", "task_id", "run_id"} <= owner.keys():
        return False
    index = int(owner.get("map_index", "-1"))
    states = states_of(
        dag_id=owner["dag_id"],
        task_id=owner["task_id"],
        run_id=owner["run_id"],
        map_index=index if index >= 0 else None,
    )
    return bool(states & LIVE)


def is_over_soon(ti: Any, timeout: float) -> bool:
    """Like :func:`is_over`, within ``timeout`` seconds; for signal handlers, whose process may be busy asking."""
    answer: list[bool] = []
    asking = threading.Thread(target=lambda: answer.append(is_over(ti)), daemon=True)
    asking.start()
    asking.join(timeout)
    return bool(answer and answer[0])


def _map_index(ti: Any) -> int | None:
    index = getattr(ti, "map_index", -1)
    return index if isinstance(index, int) and index >= 0 else None
