import io
from datetime import datetime, timezone

import pytest
from rich.console import Console

from tools import demo
from tools.airflow_api import Run, task_times
from tools.progress import Progress, TaskLine
from tools.summary import failure, slot_sentence


def event(second, what, task="classify"):
    when = f"2026-01-01T00:00:{second:02}Z"
    return {"dag_id": "d", "run_id": "r", "task_id": task, "event": what, "when": when}


def test_a_tasks_time_is_split_into_running_and_deferred():
    events = [event(1, "running"), event(4, "deferred"), event(24, "running"), event(25, "success")]

    times = task_times(events, now=datetime(2026, 1, 1, 1, tzinfo=timezone.utc))[Run("d", "r")]["classify"]

    assert (times.running, times.deferred) == (4, 20)


def test_the_wait_for_a_retry_counts_as_neither():
    events = [event(1, "running"), event(2, "up_for_retry"), event(30, "running"), event(33, "success")]

    times = task_times(events, now=datetime(2026, 1, 1, tzinfo=timezone.utc))[Run("d", "r")]["classify"]

    assert (times.running, times.deferred) == (4, 0)


def test_what_still_goes_on_counts_until_now():
    events = [event(1, "running"), event(2, "deferred"), {**event(3, "trigger"), "task_id": None}]

    times = task_times(events, now=datetime(2026, 1, 1, 0, 0, 12, tzinfo=timezone.utc))[Run("d", "r")]["classify"]

    assert (times.running, times.deferred) == (1, 10)


def test_the_summary_says_that_deferred_tasks_held_no_slot_with_the_figures():
    lines = [TaskLine("d", "classify", "success", 3.0, 12.0), TaskLine("d", "count", "success", 1.0, 0.0)]

    assert "1 task waited for OpenAI, deferred, for 12.0 s" in slot_sentence(lines)
    assert "holds no worker slot" in slot_sentence(lines)
    assert "3.0 s of its 15.0 s" in slot_sentence(lines)


def test_the_summary_says_so_when_nothing_was_deferred():
    assert slot_sentence([TaskLine("d", "count", "success", 1.0, 0.0)]).startswith("No task was deferred")


def test_a_failure_names_the_task_its_error_and_its_log(tmp_path):
    folder = tmp_path / "logs" / "dag_id=d" / "run_id=r" / "task_id=classify"
    folder.mkdir(parents=True)
    (folder / "attempt=1.log").write_text(
        '{"event": "Task started", "level": "info"}\n'
        '{"event": "Task failed with exception", "level": "error",'
        ' "error_detail": [{"exc_type": "BatchError", "exc_value": "the key is wrong"}]}\n'
        "not JSON\n"
    )

    told = failure(Run("d", "r"), {"classify": "failed", "count": "upstream_failed"}, tmp_path)

    assert "BatchError: the key is wrong" in told
    assert str(folder / "attempt=1.log") in told
    assert "Task started" not in told


def test_real_without_a_key_is_refused_before_anything_starts(monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(SystemExit) as refused:
        demo.main(["--real"])

    assert refused.value.code == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err


def shown(*, terminal):
    output = io.StringIO()
    with Progress(Console(file=output, force_terminal=terminal, width=100)) as progress:
        progress.status("The DAGs are on their way")
        progress.tasks([TaskLine("d", "classify", "deferred", 3.0, 12.0), TaskLine("d", "count", "none", 0.0, 0.0)])
        progress.tasks([TaskLine("d", "classify", "deferred", 3.0, 14.0), TaskLine("d", "count", "none", 0.0, 0.0)])
    return output.getvalue()


def test_on_a_terminal_a_live_table_shows_the_tasks():
    output = shown(terminal=True)

    assert "\x1b[" in output
    assert "deferred, s" in output
    assert "14.0" in output


def test_elsewhere_a_line_is_printed_for_each_milestone():
    lines = shown(terminal=False).splitlines()

    assert [line.partition("] ")[2] for line in lines] == ["The DAGs are on their way", "d classify: deferred"]
