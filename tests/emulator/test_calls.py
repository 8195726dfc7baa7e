"""Keys, headers, and the error envelope of everything."""

from __future__ import annotations

import pytest
from openai import AuthenticationError, OpenAI

ENVELOPE = {"message", "type", "param", "code"}


def test_a_call_without_key_is_refused_in_the_services_words(api):
    response = api.http.get("/v1/models", headers={"Authorization": ""})
    assert response.status_code == 401
    assert response.json()["error"]["message"].startswith("You didn't provide an API key.")
    assert set(response.json()["error"]) == ENVELOPE


def test_any_key_in_the_usual_form_is_accepted_by_default(api):
    with OpenAI(base_url=api.emulator.base_url, api_key="sk-whatever") as client:
        assert client.models.list().data


def test_a_wrong_key_is_refused_and_not_repeated_in_full(api):
    with (
        OpenAI(base_url=api.emulator.base_url, api_key="wrong-secret-key-1234") as client,
        pytest.raises(AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"
    assert caught.value.body["message"].startswith("Incorrect API key provided: wron********1234.")


def test_the_keys_that_were_given_are_the_only_ones(start):
    api = start(key=["secret-1", "sk-test"])
    for key, status in [("secret-1", 200), ("sk-test", 200), ("sk-other", 401)]:
        assert api.http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == status


def test_a_refused_upload_is_read_to_its_end(start):
    api = start(key=["secret-1"])
    response = api.http.post("/v1/files", files={"file": ("x.jsonl", b"x" * 5_000_000)}, data={"purpose": "batch"})
    assert response.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/nonsense", 404, "Invalid URL (GET /v1/nonsense)"),
        ("GET", "/", 404, "Invalid URL (GET /)"),
        ("POST", "/v1/files/", 404, "Invalid URL (POST /v1/files/)"),
        ("PUT", "/v1/batches", 405, "Not allowed to PUT on /v1/batches."),
        ("GET", "/v1/chat/completions", 405, "Not allowed to GET on /v1/chat/completions."),
    ],
)
def test_unknown_routes_and_methods_get_the_envelope(api, method, path, status, message):
    response = api.http.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == ENVELOPE
    assert response.json()["error"]["message"].startswith(message)


def test_answers_have_the_services_headers(api):
    ok, bad = api.http.get("/v1/models"), api.http.get("/v1/files/file-x")
    for response in (ok, bad):
        assert response.headers["x-request-id"].startswith("req_")
        assert int(response.headers["openai-processing-ms"]) >= 0
        assert response.headers["openai-version"] == "2020-10-01"
        assert response.headers["openai-organization"] == "org-emulated"
    assert ok.headers["x-request-id"] != bad.headers["x-request-id"]


def test_models_are_listed_and_shown(api):
    names = [model.id for model in api.client.models.list()]
    assert {"gpt-5", "gpt-5-mini", "gpt-4o-mini", "text-embedding-3-small", "sora-2"} <= set(names)
    assert api.client.models.retrieve("gpt-5-mini").owned_by == "openai-batch-emulator"
    response = api.http.get("/v1/models/gpt-99")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_health_needs_no_key(api):
    response = api.http.get("/emulator/health", headers={"Authorization": ""})
    assert response.json()["status"] == "ok"
    assert response.json()["emulated"] is True


def test_a_responder_that_breaks_is_a_500(start):
    def broken(_prompt):
        raise RuntimeError("broken")

    api = start(responder=broken)
    response = api.post("/v1/chat/completions", api.body())
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    batch = api.run(api.rows(1))
    assert batch.request_counts.failed == 1
