"""Jobs killed at every point, for the tests of kills; ``kill_points.py`` is the program that does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROWS = [[row, "succeeded"] for row in range(12)]


def killed_at_every_point(folder: str, apis: list[str], *options: str, **env: str) -> list[dict]:
    program = Path(__file__).with_name("kill_points.py")
    command = [sys.executable, str(program), folder, *apis, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted(map(json.loads, done.stdout.splitlines()), key=lambda point: point["point"])


def judge(points: list[dict], every: int = 1) -> None:
    assert len(points) > 100 // every
    assert [point["point"] for point in points] == [every * place for place in range(len(points))]
    for point in points:
        assert point["killed"], point["name"]
        assert point["finished"], point["name"]
        assert point["results"] == ROWS, point["name"]
        assert point["billed_twice"] == 0, point["name"]
        assert point["files_left"] == 0, point["name"]
