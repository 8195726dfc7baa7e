"""Makes raw files as the service would return them: ``python -m tests.benchmarks.answers SHARDS ANSWERS``.

The body of an answer is made by the emulator, the line around it has the service's fields, and the order is another
than the requests', as it is at the service.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from airflow_openai_batch.emulator.execution import Shuffler
from airflow_openai_batch.emulator.text_answers import Context, chat_completion
from tests.benchmarks.rows import TEXTS, texts

if TYPE_CHECKING:
    from airflow_openai_batch.emulator.prompts import Prompt

_BLOCK = 1_000
WORDS = 25
"""Words of an answer."""


def _say(pool: list[str], prompt: Prompt) -> str:
    return pool[len(prompt.text) % TEXTS]


def answer(shard: Path, target: Path) -> None:
    """Write the answers to a shard's requests."""
    out = Shuffler(target)
    responder = partial(_say, texts(WORDS))
    now = int(time.time())
    lines: list[bytes] = []
    with shard.open("rb") as requests:
        for number, raw in enumerate(requests):
            request = orjson.loads(raw)
            body, _usage = chat_completion(Context(request["url"], f"{number:032x}", now, responder), request["body"])
            line = {
                "id": f"batch_req_{number:032x}",
                "custom_id": request["custom_id"],
                "response": {"status_code": 200, "request_id": f"req_{number:032x}", "body": body},
                "error": None,
            }
            lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            if len(lines) == _BLOCK:
                out.add(lines)
                lines = []
    out.add(lines)
    out.close(empty=True)


def main() -> None:
    """Answer every shard of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("answers", type=Path)
    given = parser.parse_args()
    for shard in sorted(given.shards.glob("*.jsonl")):
        answer(shard, given.answers / f"{int(shard.name.split('.')[0]):05d}.jsonl")


if __name__ == "__main__":
    main()
