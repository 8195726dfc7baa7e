"""The Uploads API."""

from __future__ import annotations

import hashlib
import json

import pytest
from openai import BadRequestError, NotFoundError

CONTENT = b'{"a": 1}\n{"b": 2}\n'


def begin(api, size=None, **options):
    size = len(CONTENT) if size is None else size
    return api.client.uploads.create(
        **{"bytes": size, "filename": "x.jsonl", "mime_type": "application/jsonl", "purpose": "batch", **options}
    )


def send(api, upload, *pieces):
    return [api.client.uploads.parts.create(upload.id, data=piece).id for piece in pieces]


def test_parts_become_a_file_in_the_order_given(api):
    upload = begin(api)
    assert upload.status == "pending"
    assert upload.expires_at == upload.created_at + 3_600
    second, first = send(api, upload, CONTENT[9:], CONTENT[:9])
    md5 = hashlib.md5(CONTENT).hexdigest()
    done = api.client.uploads.complete(upload.id, part_ids=[first, second], md5=md5)
    assert done.status == "completed"
    assert api.client.files.content(done.file.id).content == CONTENT
    assert api.client.files.retrieve(done.file.id).purpose == "batch"


def test_the_sdk_sends_a_file_in_chunks(api):
    rows = "".join(f'{{"n": {i}}}\n' for i in range(1_000)).encode()
    done = api.client.uploads.upload_file_chunked(
        file=rows, filename="x.jsonl", bytes=len(rows), mime_type="application/jsonl", purpose="batch", part_size=1_000
    )
    assert api.client.files.content(done.file.id).content == rows


def test_an_uploaded_file_can_be_made_a_batch(api):
    row = api.row("a", "/v1/moderations", {"model": "omni-moderation-latest", "input": "x"})
    body = json.dumps(row)
    upload = begin(api, len(body))
    done = api.client.uploads.complete(upload.id, part_ids=send(api, upload, body.encode()))
    assert api.run(done.file.id, "/v1/moderations").request_counts.completed == 1


def test_a_wrong_checksum_size_or_part_leaves_the_upload_pending(api):
    upload = begin(api)
    parts = send(api, upload, CONTENT)
    with pytest.raises(BadRequestError, match="md5"):
        api.client.uploads.complete(upload.id, part_ids=parts, md5="0" * 32)
    with pytest.raises(BadRequestError, match="36 bytes in total, but 18 were announced"):
        api.client.uploads.complete(upload.id, part_ids=parts * 2)
    with pytest.raises(BadRequestError, match="No such UploadPart object: part_x"):
        api.client.uploads.complete(upload.id, part_ids=["part_x"])
    assert api.client.uploads.complete(upload.id, part_ids=parts).status == "completed"


def test_a_bad_batch_file_is_refused_when_it_is_complete(api):
    upload = begin(api, 8)
    parts = send(api, upload, b"nonsense")
    with pytest.raises(BadRequestError, match=r"Must be \.jsonl"):
        api.client.uploads.complete(upload.id, part_ids=parts)


def test_a_cancelled_upload_takes_no_more(api):
    upload = begin(api)
    assert api.client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(BadRequestError, match="cancelled"):
        send(api, upload, CONTENT)
    with pytest.raises(BadRequestError, match="cancelled"):
        api.client.uploads.cancel(upload.id)


def test_an_upload_expires_after_an_hour(api):
    upload = begin(api)
    parts = send(api, upload, CONTENT)
    api.emulator.add_fault("clock_skew,seconds=3700")
    with pytest.raises(BadRequestError, match="expired"):
        api.client.uploads.complete(upload.id, part_ids=parts)


def test_a_part_may_have_64_megabytes(api, monkeypatch):
    upload = begin(api)
    monkeypatch.setattr("airflow_openai_batch.emulator.routes.uploads.MAX_PART_BYTES", 10)
    with pytest.raises(BadRequestError, match="too large"):
        send(api, upload, CONTENT)


def test_an_unknown_upload_is_not_found(api):
    with pytest.raises(NotFoundError):
        api.client.uploads.cancel("upload_x")


def test_a_bad_upload_is_refused(start):
    api = start(max_file_bytes=100)
    with pytest.raises(BadRequestError) as caught:
        begin(api, 101)
    assert caught.value.code == "integer_above_max_value"
    with pytest.raises(BadRequestError) as caught:
        begin(api, 0)
    assert caught.value.code == "integer_below_min_value"
    with pytest.raises(BadRequestError) as caught:
        begin(api, purpose="nonsense")
    assert caught.value.code == "invalid_value"


def test_expires_after_is_the_finished_files_expiry(api):
    upload = begin(api, expires_after={"anchor": "created_at", "seconds": 3_600})
    done = api.client.uploads.complete(upload.id, part_ids=send(api, upload, CONTENT))
    assert done.file.expires_at == done.file.created_at + 3_600
