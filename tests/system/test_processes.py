import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from tools.airflow_stack import clean_environment
from tools.processes import Program, StackError, check_port, end_marked, free_ports, lock, mark, marked


@pytest.fixture
def start(tmp_path):
    def start(code):
        command = [sys.executable, "-u", "-c", textwrap.dedent(code)]
        return Program("test program", command, env=clean_environment(), log=tmp_path / "log", home=tmp_path)

    yield start
    end_marked(tmp_path, seconds=1)


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_program_heeds_its_interrupt(start, tmp_path):
    program = start("import time; print('up'); time.sleep(60)")
    wait_for(lambda: "up" in program.log.read_text())

    assert program.interrupt(5)
    assert marked(tmp_path) == []


def test_a_program_heeds_its_interrupt_where_this_process_ignores_it(start):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        program = start("import time; print('up'); time.sleep(60)")
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: "up" in program.log.read_text())

    assert program.interrupt(5)


def test_what_heeds_no_signal_and_left_the_session_is_ended_too(start, tmp_path):
    program = start("""
        import os, signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
        print("up")
        time.sleep(60)
    """)
    wait_for(lambda: program.log.read_text().count("up") == 2)

    assert not program.interrupt(0.1)
    assert end_marked(tmp_path, seconds=0.2) == 2
    assert marked(tmp_path) == []


def test_processes_of_another_home_are_left_alone(start, tmp_path):
    program = start("import time; time.sleep(60)")

    assert end_marked(tmp_path / "other") == 0
    program.check()


def test_a_program_that_ended_is_reported_with_the_end_of_its_log(start):
    program = start("print('no room on the disk'); raise SystemExit(3)")

    with pytest.raises(StackError, match=r"(?s)test program ended with status 3.*no room on the disk") as caught:
        wait_for(program.check)
    assert caught.value.log == program.log


def test_a_second_run_is_told_that_the_first_is_under_way(tmp_path):
    with lock(tmp_path / "lock"), pytest.raises(StackError, match=rf"process {os.getpid()}"):
        lock(tmp_path / "lock")


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    code = f"""
    import time
    from pathlib import Path
    from tools.processes import lock
    kept = lock(Path({str(tmp_path / "lock")!r}))
    print("locked", flush=True)
    time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, env={**os.environ, **mark(tmp_path)}
    ) as other:
        other.stdout.readline()
        with pytest.raises(StackError):
            lock(tmp_path / "lock")
        other.kill()

    lock(tmp_path / "lock").close()


def test_a_port_in_use_is_named():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with pytest.raises(StackError, match=rf"Port {port}, wanted for Airflow, is taken"):
            check_port(port, "Airflow")


def test_free_ports_are_free_and_differ():
    ports = free_ports(4)

    assert len(set(ports)) == 4
    for port in ports:
        check_port(port, "a test")


def test_the_environment_of_a_run_has_nothing_of_the_users_airflow_or_openai():
    env = clean_environment(
        {"AIRFLOW_HOME": "x", "AIRFLOW__CORE__EXECUTOR": "x", "OPENAI_API_KEY": "x", "HOME": "h", "no_proxy": "a"}
    )

    assert env.keys() == {"HOME", "NO_PROXY", "no_proxy", "PATH"}
    assert env["no_proxy"] == "a,127.0.0.1,localhost"
    assert env["NO_PROXY"] == "127.0.0.1,localhost"
