"""The Uploads API: a file sent in parts, each at most 64 MB, and made a File when all have arrived."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.emulator import ids
from airflow_openai_batch.emulator.errors import APIError
from airflow_openai_batch.emulator.files import check_batch_file

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_openai_batch.emulator.clock import Clock
    from airflow_openai_batch.emulator.files import FileStore, StoredFile

MAX_PART_BYTES = 64 * 1024 * 1024
LIFETIME = 3_600
_PIECE = 1024 * 1024


@dataclass(slots=True)
class Upload:
    """A file under way.

    :param size: bytes that were announced; completing with another number is an error.
    :param lifetime: seconds that the finished file shall live, ``None`` for the purpose's default.
    :param parts: where the bytes of each part are, by part id.
    """

    id: str
    filename: str
    purpose: str
    size: int
    lifetime: int | None
    created_at: int
    expires_at: int
    status: str = "pending"
    file: StoredFile | None = None
    parts: dict[str, Path] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the API's Upload object."""
        return {
            "id": self.id,
            "object": "upload",
            "bytes": self.size,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": self.status,
            "file": self.file.to_json() if self.file else None,
        }


class UploadStore:
    """All uploads."""

    def __init__(self, files: FileStore, clock: Clock, max_bytes: int) -> None:
        self._files = files
        self._clock = clock
        self._max_bytes = max_bytes
        self._uploads: dict[str, Upload] = {}

    def create(self, *, filename: str, purpose: str, size: int, lifetime: int | None) -> Upload:
        """Begin an upload."""
        if size > self._max_bytes:
            message = f"Invalid 'bytes': integer above maximum value. Expected a value <= {self._max_bytes}, "
            raise APIError(400, f"{message}but got {size} instead.", code="integer_above_max_value", param="bytes")
        now = self._clock.now()
        upload = Upload(ids.new_id("upload_"), filename, purpose, size, lifetime, now, now + LIFETIME)
        self._uploads[upload.id] = upload
        return upload

    def pending(self, upload_id: str) -> Upload:
        """Return the upload if it still takes parts, else raise.

        :raises APIError: 404 for an unknown id; 400 when it was completed or cancelled, or is older than an hour.
        """
        upload = self._uploads.get(upload_id)
        if upload is None:
            raise APIError(404, f"No such Upload object: {upload_id}", param="id")
        if upload.status == "pending" and upload.expires_at <= self._clock.now():
            self._end(upload, "expired")
        if upload.status != "pending":
            raise APIError(400, f"Upload {upload_id} is not pending: its status is '{upload.status}'.", param="id")
        return upload

    def add_part(self, upload: Upload, path: Path) -> dict[str, Any]:
        """Take the bytes at ``path`` as a part and return the API's UploadPart object."""
        if path.stat().st_size > MAX_PART_BYTES:
            path.unlink()
            raise APIError(400, f"Part is too large. The maximum is {MAX_PART_BYTES} bytes.", param="data")
        part_id = ids.new_id("part_")
        upload.parts[part_id] = path
        return {"id": part_id, "object": "upload.part", "created_at": self._clock.now(), "upload_id": upload.id}

    def cancel(self, upload: Upload) -> None:
        """Drop the upload and its parts."""
        self._end(upload, "cancelled")

    def join(self, upload: Upload, part_ids: list[str], md5: str | None) -> Path:
        """Join the parts in the order of ``part_ids`` and return where they are. Runs on a worker thread.

        :raises APIError: 400 for an unknown part, a size or a checksum that differs from what was announced, or bytes
            that the purpose doesn't allow. The upload stays pending.
        """
        for part_id in part_ids:
            if part_id not in upload.parts:
                raise APIError(400, f"No such UploadPart object: {part_id}", param="part_ids")
        whole = self._files.scratch()
        digest = hashlib.md5(usedforsecurity=False)
        with whole.open("wb") as target:
            for part_id in part_ids:
                with upload.parts[part_id].open("rb") as source:
                    while piece := source.read(_PIECE):
                        digest.update(piece)
                        target.write(piece)
        try:
            self._check(upload, whole, digest.hexdigest(), md5)
        except APIError:
            whole.unlink()
            raise
        return whole

    def _check(self, upload: Upload, whole: Path, md5: str, expected: str | None) -> None:
        if (size := whole.stat().st_size) != upload.size:
            message = f"The uploaded parts have {size} bytes in total, but {upload.size} were announced."
            raise APIError(400, message, param="part_ids")
        if expected and expected.lower() != md5:
            message = f"The md5 checksum of the file is {md5}, but {expected} was expected."
            raise APIError(400, message, param="md5")
        if upload.purpose == "batch":
            check_batch_file(whole, upload.filename)

    def finish(self, upload: Upload, whole: Path) -> StoredFile:
        """Make a file of the joined parts."""
        upload.file = self._files.adopt(
            whole, filename=upload.filename, purpose=upload.purpose, lifetime=upload.lifetime
        )
        self._end(upload, "completed")
        return upload.file

    def _end(self, upload: Upload, status: str) -> None:
        upload.status = status
        for path in upload.parts.values():
            path.unlink(missing_ok=True)
        upload.parts.clear()
