"""What the engine asks of a Batch API. ``airflow_openai_batch.client`` answers it with the OpenAI SDK.

Every method raises the errors of ``airflow_openai_batch.exceptions`` and nothing else. ``create_batch`` never repeats
itself: what a lost answer did is found out by listing, not by sending again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airflow_openai_batch.engine.models import BatchSnapshot, RemoteFile


class DirectAPI(Protocol):
    """The call of a job that waits for no batch."""

    def ask(self, lines: Iterable[bytes], take: Callable[[bytes], None], *, concurrency: int) -> None:
        """Answer requests by synchronous calls, at the full price, and return when all of them are answered.

        ``lines`` is read, and ``take`` called, in the caller's thread: a line is asked for as there is room for its
        call. When ``lines`` raises an error, what was read before is answered first. When ``take`` does, or a call ends
        it all, none is begun any more; those in the air are waited for and their answers taken, since they may be paid.
        A kill (``KeyboardInterrupt`` and its kin) waits for none, but what has come in is taken.

        What concerns a row alone is its line; what concerns all of them is raised: a wrong key, no credit, a server
        that isn't there.

        :param lines: requests, as in a batch's input file.
        :param take: gets a line as in a batch's output or error file for each of them, with its newline, in any order.
            A row that got no answer within the retries has ``response`` null and ``error.code`` ``connection_error``.
        :param concurrency: calls in the air at once, at most.
        :raises APIError: an error that concerns all rows; those without a line weren't asked, or got no answer.
        """
        ...


class BatchAPI(DirectAPI, Protocol):
    """The calls of a job."""

    def upload(self, name: str, opener: Callable[[], BinaryIO]) -> RemoteFile:
        """Upload a file with purpose ``batch``, streamed; ``opener`` is called anew for each try."""
        ...

    def files_named(self, name: str, *, since: float) -> list[RemoteFile]:
        """Return the uploaded files of that name, looking back to ``since`` (seconds of the epoch)."""
        ...

    def find_file(self, file_id: str) -> RemoteFile | None:
        """Return a file, None where it isn't there for this key."""
        ...

    def delete_file(self, file_id: str) -> None:
        """Delete a file; one that isn't there is no error."""
        ...

    def create_batch(
        self,
        *,
        input_file_id: str | None = None,
        input_file_content: str | None = None,
        endpoint: str,
        completion_window: str,
        metadata: Mapping[str, str],
        output_expires_after: int | None = None,
    ) -> BatchSnapshot:
        """Create a batch with one single call, of an uploaded file or of lines that are sent with it.

        :raises UnreachableError: whether a batch was made is unknown.
        :raises APIError: any other: no batch was made.
        """
        ...

    def retrieve_batch(self, batch_id: str) -> BatchSnapshot:
        """Return one batch."""
        ...

    def list_batches(self) -> Iterator[BatchSnapshot]:
        """Yield all batches, newest first, a page of 100 at a time as they are asked for."""
        ...

    def cancel_batch(self, batch_id: str) -> BatchSnapshot:
        """Cancel a batch; one that has ended already is returned as it is."""
        ...

    def download(self, file_id: str, target: BinaryIO) -> int:
        """Stream a file's content into ``target`` (seekable, empty), resuming where a transfer broke; its bytes."""
        ...
