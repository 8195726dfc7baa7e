"""A cap holds and no row is lost, at whatever moment the process that spends the money is killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import pytest

from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.engine.direct import ROWS as CLAIM
from tests.engine.money_job import AT_ONCE, CAPPED, RATE, ROWS, job_of

MODULE = "tests.engine.money_job"
FIRST_CAP = 1.02
"""Times the estimate: what the first kill loses is more than that leaves."""


@pytest.fixture
def slow_answers():
    """An emulator that takes 50 ms for an answer."""
    with running(
        fault={"fault": "latency", "call": "chat.completions.create", "seconds": 0.05, "times": None}
    ) as emulator:
        yield emulator


def usd(ledger):
    """What all calls cost, by the ledger's tokens."""
    return ledger.synchronous["output_tokens"] * RATE / 1e6


@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_that_is_killed_again_and_again_stays_within_its_cap_and_loses_no_row(slow_answers, tmp_path, seed):
    dice = random.Random(seed)
    ledger, folder = slow_answers.ledger, str(tmp_path / "out")
    # An estimate beforehand, of the very same job.
    whole = job_of(str(tmp_path / "estimate"), slow_answers.base_url, 1.0).open().estimate["usd_standard"]
    cap = whole * FIRST_CAP
    kills, raised, ended = 0, 0, None
    while ended != 0:
        with subprocess.Popen(
            [sys.executable, "-m", MODULE, folder, slow_answers.base_url, str(cap)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"begun\n"
            if kills < 4:
                time.sleep(dice.uniform(0.05, 0.9))
                process.kill()
            ended = process.wait(60)
        kills += ended == -9
        assert ended in {0, -9, CAPPED}
        assert usd(ledger) <= cap
        if ended == CAPPED:
            cap, raised = cap + whole * 0.25, raised + 1
    results = [
        json.loads(line)
        for file in sorted((tmp_path / "out/results").iterdir())
        for line in file.read_bytes().splitlines()
    ]
    assert [(line["row"], line["status"], line["output"]) for line in results] == [
        (n, "succeeded", f"This is row {n}.") for n in range(ROWS)
    ]
    assert kills >= 2
    assert raised >= 1
    # What engine/direct.py promises: the rows of two claims at the most, for each kill.
    assert ledger.rows_billed - ROWS == ledger.rows_billed_twice <= kills * 2 * AT_ONCE * CLAIM
    assert ledger.calls.keys() == {"chat.completions.create"}
    print(f"{kills} kills, {ledger.rows_billed_twice} of {ROWS} rows twice, cap raised {raised} times")  # noqa: T201
