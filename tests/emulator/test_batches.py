"""Creating, listing and cancelling batches."""

from __future__ import annotations

import pytest
from openai import BadRequestError, ConflictError, NotFoundError

PATH = "/v1/batches"
CHAT = "/v1/chat/completions"
SUPPORTED = (
    "'/v1/responses', '/v1/chat/completions', '/v1/embeddings', '/v1/completions', '/v1/moderations', "
    "'/v1/images/generations', '/v1/images/edits', and '/v1/videos'"
)


@pytest.fixture(scope="module")
def file_id(shared):
    return shared.upload(shared.rows(1)).id


BAD = {
    "no input_file_id": (
        {"input_file_id": None},
        "missing_required_parameter",
        "Missing required parameter: 'input_file_id'.",
        "input_file_id",
    ),
    "no endpoint": (
        {"endpoint": None},
        "missing_required_parameter",
        "Missing required parameter: 'endpoint'.",
        "endpoint",
    ),
    "no window": (
        {"completion_window": None},
        "missing_required_parameter",
        "Missing required parameter: 'completion_window'.",
        "completion_window",
    ),
    "endpoint": (
        {"endpoint": "/v1/x"},
        "invalid_value",
        f"Invalid value: '/v1/x'. Supported values are: {SUPPORTED}.",
        "endpoint",
    ),
    "endpoint's type": (
        {"endpoint": 5},
        "invalid_type",
        "Invalid type for 'endpoint': expected a string, but got an integer instead.",
        "endpoint",
    ),
    "window": (
        {"completion_window": "48h"},
        "invalid_value",
        "Invalid value: '48h'. Supported values are: '24h'.",
        "completion_window",
    ),
    "metadata's type": (
        {"metadata": "x"},
        "invalid_type",
        "Invalid type for 'metadata': expected an object, but got a string instead.",
        "metadata",
    ),
    "metadata value's type": (
        {"metadata": {"rows": 5}},
        "invalid_type",
        "Invalid type for 'metadata.rows': expected a string, but got an integer instead.",
        "metadata.rows",
    ),
    "too much metadata": (
        {"metadata": {f"k{i}": "v" for i in range(17)}},
        "object_above_max_properties",
        (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
            "but got an object with 17 properties instead."
        ),
        "metadata",
    ),
    "metadata value": (
        {"metadata": {"key": "v" * 513}},
        "string_above_max_length",
        (
            "Invalid 'metadata.key': string too long. Expected a string with maximum length 512, "
            "but got a string with length 513 instead."
        ),
        "metadata.key",
    ),
    "metadata key": (
        {"metadata": {"k" * 65: "v"}},
        "string_above_max_length",
        (
            f"Invalid 'metadata.{'k' * 65}': string too long. Expected a string with maximum length 64, "
            "but got a string with length 65 instead."
        ),
        "metadata." + "k" * 65,
    ),
    "expiry too short": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
        "integer_below_min_value",
        (
            "Invalid 'output_expires_after.seconds': integer below minimum value. Expected a value >= 3600, "
            "but got 60 instead."
        ),
        "output_expires_after.seconds",
    ),
    "expiry's anchor": (
        {"output_expires_after": {"anchor": "now", "seconds": 3_600}},
        "invalid_value",
        "Invalid value: 'now'. Supported values are: 'created_at'.",
        "output_expires_after.anchor",
    ),
    "unknown parameter": ({"priority": "high"}, "unknown_parameter", "Unknown parameter: 'priority'.", "priority"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_create_is_refused_at_once(api, file_id, case):
    change, code, message, param = BAD[case]
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **change}
    response = api.post(PATH, {key: value for key, value in body.items() if value is not None})
    assert response.status_code == 400
    assert response.json() == {
        "error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    }


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b'"x"'])
def test_a_body_that_is_no_json_object_is_refused(api, content):
    response = api.http.post(PATH, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("We could not parse the JSON body of your request.")


def test_greatest_metadata_is_accepted(api, file_id):
    metadata = {f"{i:064}": "v" * 512 for i in range(16)}
    assert api.create(file_id, metadata=metadata).metadata == metadata


def test_an_unknown_file_is_refused(api):
    with pytest.raises(BadRequestError) as caught:
        api.create("file-unknown")
    assert caught.value.body["message"] == (
        "Cannot find file file-unknown, or project proj_emulated does not have access to it."
    )


def test_a_file_for_another_purpose_is_refused(api):
    file = api.client.files.create(file=("x.jsonl", b"{}\n"), purpose="user_data")
    with pytest.raises(BadRequestError, match="purpose"):
        api.create(file.id)


def test_an_unknown_batch_is_not_found(api):
    with pytest.raises(NotFoundError) as caught:
        api.client.batches.retrieve("batch_unknown")
    assert caught.value.body["message"] == "No batch found with id 'batch_unknown'."
    with pytest.raises(NotFoundError):
        api.client.batches.cancel("batch_unknown")


def test_lists_are_newest_first_and_paged(start):
    api = start()
    file = api.upload(api.rows(1)).id
    made = [api.create(file, metadata={"n": str(i)}).id for i in range(25)]
    first = api.http.get(PATH).json()
    assert [item["id"] for item in first["data"]] == made[:4:-1]
    assert (first["object"], first["has_more"]) == ("list", True)
    assert (first["first_id"], first["last_id"]) == (made[-1], made[5])
    second = api.http.get(PATH, params={"after": first["last_id"]}).json()
    assert [item["id"] for item in second["data"]] == made[4::-1]
    assert second["has_more"] is False
    assert [batch.id for batch in api.client.batches.list(limit=7)] == made[::-1]
    exact = api.http.get(PATH, params={"limit": 25}).json()
    assert exact["has_more"] is False
    past = api.http.get(PATH, params={"after": made[0]}).json()
    assert (past["data"], past["first_id"], past["last_id"], past["has_more"]) == ([], None, None, False)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"limit": 0}, "integer_below_min_value"),
        ({"limit": 101}, "integer_above_max_value"),
        ({"limit": "x"}, "invalid_type"),
        ({"after": "batch_unknown"}, "invalid_value"),
    ],
)
def test_a_bad_list_is_refused(api, params, code):
    response = api.http.get(PATH, params=params)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize(("content", "status"), [(None, "completed"), ("\n\n", "failed")])
def test_a_batch_that_ended_cannot_be_cancelled(api, content, status):
    batch = api.run(content or api.rows(1))
    assert batch.status == status
    with pytest.raises(ConflictError) as caught:
        api.client.batches.cancel(batch.id)
    assert caught.value.body["message"] == f"Cannot cancel a batch with status '{status}'."


def test_a_cancelled_batch_cannot_be_cancelled_again(start):
    api = start(in_progress=20)
    batch = api.create(api.rows(1))
    api.client.batches.cancel(batch.id)
    api.until(batch, "cancelled")
    with pytest.raises(ConflictError, match="'cancelled'"):
        api.client.batches.cancel(batch.id)
