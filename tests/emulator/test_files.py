"""Files: what is refused, how they are listed, sent and forgotten."""

from __future__ import annotations

import hashlib

import pytest
from openai import BadRequestError, NotFoundError

PATH = "/v1/files"
LINE = b'{"custom_id": "a"}\n'


def upload(api, content=LINE, name="x.jsonl", purpose="batch", **data):
    return api.http.post(PATH, files={"file": (name, content)}, data={"purpose": purpose, **data})


def test_an_uploaded_file_comes_back_byte_for_byte(api):
    content = b"".join(b'{"line": %d}\n' % i for i in range(300_000))
    file = api.client.files.create(file=("big.jsonl", content), purpose="batch")
    assert (file.bytes, file.filename, file.purpose, file.status) == (len(content), "big.jsonl", "batch", "processed")
    with api.client.files.with_streaming_response.content(file.id) as response:
        digest = hashlib.sha256()
        for piece in response.iter_bytes():
            digest.update(piece)
    assert digest.digest() == hashlib.sha256(content).digest()


def test_a_batch_file_lives_thirty_days_and_another_for_ever(api):
    file = api.client.files.create(file=("x.jsonl", LINE), purpose="batch")
    assert file.expires_at == file.created_at + 30 * 86_400
    assert api.client.files.create(file=("x.txt", b"x"), purpose="user_data").expires_at is None


def test_expires_after_sets_the_life_of_a_file(api):
    file = api.client.files.create(
        file=("x.jsonl", LINE), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7_200}
    )
    assert file.expires_at == file.created_at + 7_200


def test_an_expired_file_is_gone(api):
    file = api.client.files.create(
        file=("x.jsonl", LINE), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600}
    )
    api.emulator.add_fault("clock_skew,seconds=3700")
    with pytest.raises(NotFoundError):
        api.client.files.retrieve(file.id)
    assert file.id not in {item.id for item in api.client.files.list()}


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (LINE, "x.json", "Invalid file format for Batch API. Must be .jsonl"),
        (LINE, "jsonl", "Invalid file format for Batch API. Must be .jsonl"),
        (b"", "x.jsonl", "File is empty."),
        (b"nonsense", "x.jsonl", "Invalid file format for Batch API. Must be .jsonl"),
        (b"nonsense\n", "x.jsonl", "Invalid file format for Batch API. Must be .jsonl"),
        (LINE + b"\xff\xfe\n", "x.jsonl", "Invalid file for Batch API. Must be utf-8 encoded"),
        (LINE + b"\xe3\x81", "x.jsonl", "Invalid file for Batch API. Must be utf-8 encoded"),
    ],
)
def test_a_bad_batch_file_is_refused_at_upload(api, content, name, message):
    response = upload(api, content, name)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == message


def test_valid_json_that_is_no_request_is_accepted_at_upload(api):
    assert upload(api, b'{"custom_id": "no method"}\n').status_code == 200
    assert upload(api, b"nonsense\nmore nonsense\n").status_code == 200


def test_other_purposes_take_any_file(api):
    assert upload(api, b"\xff", "x.bin", "user_data").status_code == 200


@pytest.mark.parametrize("size", [2_000, 200_000])
def test_a_file_over_the_limit_is_refused(start, size):
    api = start(max_file_bytes=1_000)
    response = upload(api, b'{"a": 1}\n' * (size // 9 + 1))
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "File is too large."
    assert api.ledger.files == []


@pytest.mark.parametrize(
    ("data", "param", "code"),
    [
        ({"purpose": "nonsense"}, "purpose", "invalid_value"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after.anchor", "invalid_value"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"},
            "expires_after.seconds",
            "integer_below_min_value",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592001"},
            "expires_after.seconds",
            "integer_above_max_value",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"},
            "expires_after.seconds",
            "invalid_type",
        ),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds", "missing_required_parameter"),
    ],
)
def test_a_bad_field_of_the_form_is_refused(api, data, param, code):
    response = upload(api, **data)
    assert response.status_code == 400
    assert (response.json()["error"]["param"], response.json()["error"]["code"]) == (param, code)


def test_a_form_without_file_or_purpose_is_refused(api):
    response = api.http.post(PATH, files={"other": ("x", b"x")}, data={"purpose": "batch"})
    assert response.json()["error"]["message"] == "Missing required parameter: 'file'."
    response = api.http.post(PATH, files={"file": ("x.jsonl", LINE)})
    assert response.json()["error"]["message"] == "Missing required parameter: 'purpose'."
    response = api.http.post(PATH, json={"purpose": "batch"})
    assert response.status_code == 400


def test_files_are_listed_and_paged(start):
    api = start()
    made = [upload(api).json()["id"] for _ in range(5)]
    other = upload(api, b"x", "x.txt", "user_data").json()["id"]
    assert [file.id for file in api.client.files.list()] == [other, *made[::-1]]
    assert [file.id for file in api.client.files.list(purpose="batch", order="asc")] == made
    page = api.client.files.list(limit=2, purpose="batch", order="asc")
    assert page.has_more
    assert [file.id for file in page.data] == made[:2]
    api.client.files.delete(made[1])
    rest = api.client.files.list(after=made[1], order="asc", purpose="batch")
    assert [file.id for file in rest.data] == made[2:]
    assert api.http.get(PATH, params={"order": "up"}).json()["error"]["code"] == "invalid_value"
    assert api.http.get(PATH, params={"limit": 10_001}).json()["error"]["code"] == "integer_above_max_value"


def test_a_deleted_file_is_gone(api):
    file = api.client.files.create(file=("x.jsonl", LINE), purpose="batch")
    deleted = api.client.files.delete(file.id)
    assert (deleted.id, deleted.deleted) == (file.id, True)
    for call in (api.client.files.retrieve, api.client.files.content, api.client.files.delete):
        with pytest.raises(NotFoundError) as caught:
            call(file.id)
        assert caught.value.body["message"] == f"No such File object: {file.id}"
        assert caught.value.body["param"] == "id"
    with pytest.raises(BadRequestError, match="Cannot find file"):
        api.create(file.id)


def test_a_part_of_a_file_can_be_downloaded(api):
    file = api.client.files.create(file=("x.jsonl", b'{"a": "0123456789"}\n'), purpose="batch")
    path = f"{PATH}/{file.id}/content"
    whole = api.http.get(path)
    assert whole.headers["content-length"] == "20"
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-type"] == "application/octet-stream"
    part = api.http.get(path, headers={"Range": "bytes=5-"})
    assert (part.status_code, part.content) == (206, whole.content[5:])
    assert part.headers["content-range"] == "bytes 5-19/20"
    assert part.headers["etag"] == whole.headers["etag"]
    assert api.http.get(path, headers={"Range": "bytes=2-4"}).content == whole.content[2:5]
    assert api.http.get(path, headers={"Range": "bytes=-3"}).content == whole.content[-3:]
    matching = {"Range": "bytes=5-", "If-Range": whole.headers["etag"]}
    assert api.http.get(path, headers=matching).status_code == 206
    assert api.http.get(path, headers={**matching, "If-Range": '"other"'}).content == whole.content
    past = api.http.get(path, headers={"Range": "bytes=20-"})
    assert (past.status_code, past.headers["content-range"]) == (416, "bytes */20")
    assert past.json()["error"]["message"]


def test_bytes_are_kept_in_a_directory_of_ones_own_and_else_removed(start, tmp_path):
    api = start(data=tmp_path / "kept")
    file = upload(api).json()["id"]
    assert (tmp_path / "kept" / file).read_bytes() == LINE
    api.client.files.delete(file)
    assert list((tmp_path / "kept").iterdir()) == []


def test_refused_uploads_and_batches_leave_nothing_on_disk(start, tmp_path):
    api = start(data=tmp_path)
    upload(api, b"nonsense")
    batch = api.run(api.rows(3))
    api.client.files.delete(batch.input_file_id)
    api.client.files.delete(batch.output_file_id)
    assert list(tmp_path.iterdir()) == []
