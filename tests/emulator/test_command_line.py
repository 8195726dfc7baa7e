"""The program, and running it inside a test."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from airflow_openai_batch.emulator.__main__ import main
from airflow_openai_batch.emulator.app import create_app
from airflow_openai_batch.emulator.server import listen, running
from airflow_openai_batch.emulator.settings import Settings

PROGRAM = [sys.executable, "-m", "airflow_openai_batch.emulator"]


@contextmanager
def program(*arguments):
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_listens_and_stops_cleanly(number):
    with program("--port", "0", "--validating", "30") as process:
        line = process.stdout.readline()
        match = re.fullmatch(r"OpenAI Batch API emulator \(no real model\) on (http://127\.0\.0\.1:\d+)/v1\n", line)
        assert match, line
        with httpx.Client(base_url=match[1], headers={"Authorization": "Bearer sk-x"}, trust_env=False) as http:
            form = {"files": {"file": ("x.jsonl", b"{}\n")}, "data": {"purpose": "batch"}}
            file = http.post("/v1/files", **form).json()
            asked = {"input_file_id": file["id"], "endpoint": "/v1/responses", "completion_window": "24h"}
            assert http.post("/v1/batches", json=asked).json()["status"] == "validating"
            process.send_signal(number)
            output, _ = process.communicate(timeout=10)
        assert (process.returncode, output) == (0, "")


def test_help_explains_options_markers_and_faults(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("--rows-per-second", "[[emulate:refusal]]", "cut_download", "/emulator/ledger", "module:attribute"):
        assert word in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fault", "nonsense"],
        ["--responder", "nonsense"],
        ["--token-limit", "many"],
        ["--port", "x"],
        ["--nonsense"],
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--port", "0", *arguments] if "--port" not in arguments else arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error(capsys):
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        assert main(["--port", str(bound.getsockname()[1])]) == 1
    assert "in use" in capsys.readouterr().err


def test_options_have_the_same_names_in_python():
    with running(key=["secret"], models=["m"], fault=[{"fault": "drop"}], token_limit=["m=5"]) as emulator:
        assert emulator.base_url == f"http://127.0.0.1:{emulator.port}/v1"
        assert emulator.ledger.calls == {}
        assert len(emulator.state.faults.to_json()) == 1


def test_an_option_that_takes_several_takes_one_too():
    settings = Settings(key="secret", models="m", fault={"fault": "drop"}, token_limit=5)
    assert (settings.key, settings.models, settings.fault) == (("secret",), ("m",), ({"fault": "drop"},))
    assert settings.limit_of("m") == 5


def test_an_option_that_is_none_is_refused():
    with pytest.raises(TypeError, match="nonsense"), running(nonsense=1):
        pass


def test_two_can_run_beside_each_other():
    with running() as one, running() as two:
        assert one.port != two.port
        assert one.ledger is not two.ledger


def test_nothing_listens_afterwards_and_the_directory_is_gone():
    with running() as emulator:
        directory = emulator.state.files.directory
        assert directory.is_dir()
    assert not directory.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{emulator.url}/emulator/health", trust_env=False)


def test_it_stops_while_a_call_is_under_way():
    with (
        running(fault=["latency,seconds=60"]) as emulator,
        httpx.Client(trust_env=False, timeout=0.1) as http,
        pytest.raises(httpx.ReadTimeout),
    ):
        http.get(f"{emulator.base_url}/models", headers={"Authorization": "Bearer sk-x"})


def test_the_application_runs_on_any_asgi_server():
    async def ask():
        app = create_app(Settings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://emulator") as client:
            return await client.get("/v1/models", headers={"Authorization": "Bearer sk-x"})

    assert asyncio.run(ask()).status_code == 200


def test_importing_it_brings_in_neither_airflow_nor_the_sdk():
    code = (
        "import sys, airflow_openai_batch.emulator.__main__;"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in {'airflow', 'openai'}"
        " or n.startswith('airflow_openai_batch.') and not n.startswith('airflow_openai_batch.emulator')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
