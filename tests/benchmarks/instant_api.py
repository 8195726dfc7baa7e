"""A Batch API without HTTP: uploads are read and dropped, batches end when told, downloads are copies of local files.

Several threads may use it. What is measured through it is the engine's own work. The raw files are made by
:mod:`tests.benchmarks.answers` in a process of its own, so that making them takes none of the measured process's
memory.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_openai_batch.engine.models import BatchSnapshot, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_PIECE = 1 << 20


class InstantAPI:
    """The engine's ``BatchAPI``.

    :param answers: the folder of the raw files; ``00000.jsonl`` is what shard 0 returns.
    """

    def __init__(self, answers: Path) -> None:
        self.answers = answers
        self.batches: dict[str, BatchSnapshot] = {}
        self._files: list[RemoteFile] = []
        self._numbers = itertools.count()

    def end_all(self, shards: Path) -> None:
        """Let all batches complete, with answers to the requests of a folder of shards."""
        self.answers.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.benchmarks.answers", str(shards), str(self.answers)]
        subprocess.run(command, check=True)
        for batch in self.batches.values():
            ended = replace(batch, status="completed", output_file_id=f"file-out-{batch.metadata['shard']}")
            self.batches[batch.id] = ended

    def upload(self, name: str, opener: Callable[[], BinaryIO]) -> RemoteFile:
        size = 0
        with opener() as content:
            while piece := content.read(_PIECE):
                size += len(piece)
        file = RemoteFile(f"file-{next(self._numbers)}", name, size, time.time())
        self._files.append(file)
        return file

    def files_named(self, name: str, *, since: float) -> list[RemoteFile]:  # noqa: ARG002 - the protocol's
        return [file for file in self._files if file.name == name]

    def delete_file(self, file_id: str) -> None:
        pass

    def create_batch(
        self, *, input_file_id: str, endpoint: str, metadata: Mapping[str, str], **_more: Any
    ) -> BatchSnapshot:
        batch = BatchSnapshot(
            f"batch_{next(self._numbers):032x}",
            "in_progress",
            endpoint,
            input_file_id,
            created_at=time.time(),
            metadata=dict(metadata),
        )
        self.batches[batch.id] = batch
        return batch

    def retrieve_batch(self, batch_id: str) -> BatchSnapshot:
        return self.batches[batch_id]

    def list_batches(self) -> Iterator[BatchSnapshot]:
        yield from reversed(list(self.batches.values()))

    def cancel_batch(self, batch_id: str) -> BatchSnapshot:
        return self.batches[batch_id]

    def download(self, file_id: str, target: BinaryIO) -> int:
        number = int(file_id.removeprefix("file-out-"))
        with (self.answers / f"{number:05d}.jsonl").open("rb") as source:
            shutil.copyfileobj(source, target, _PIECE)
        return target.tell()
