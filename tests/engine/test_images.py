"""Images of rows beside the prompt: what is sent, what is refused, what results keep."""

from __future__ import annotations

import base64
import json
import struct
import zlib

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from airflow_openai_batch.engine import images
from airflow_openai_batch.engine.chunks import ChunkMaker
from airflow_openai_batch.engine.requests import RequestBuilder, RequestSpec, RowError
from airflow_openai_batch.engine.shards import Limits
from airflow_openai_batch.engine.sources import Rows, open_source
from airflow_openai_batch.exceptions import ConfigurationError, StoreError

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
URL = "https://example.com/cat.png"


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


PNG = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\0\0"))
    + chunk(b"IEND", b"")
)
JPEG, GIF, WEBP = b"\xff\xd8\xff\xe0...", b"GIF89a...", b"RIFF\x10\x20\x0a\x00WEBPVP8 "


def data_url(content, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def build(row, **spec):
    given = {"prompt": "What is it?", "model": "m", "image_columns": ["image"], **spec}
    made = ChunkMaker(RequestBuilder(RequestSpec(**given)), Limits()).chunk(0, Rows("", 1, [row]))
    for problem in made.problems:
        raise RowError(problem.field, problem.message)
    (body,), (columns,) = made.bodies, made.columns
    return json.loads(body), json.loads(columns)


def urls(row, **spec):
    """The images that were sent with the prompt."""
    content = build(row, **spec)[0]["messages"][-1]["content"]
    return (
        [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if content != "What is it?"
        else []
    )


def refusal(row, **spec):
    with pytest.raises(RowError) as caught:
        build(row, **spec)
    return f"{caught.value.field}: {caught.value}"


@pytest.fixture
def root(tmp_path):
    """A folder of images, and a file beside it that no row may have."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "images" / "cat.png").write_bytes(PNG)
    (tmp_path / "images" / "sub" / "dog 1.jpg").write_bytes(JPEG)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "secret.png").write_bytes(PNG)
    return str(tmp_path / "images")


def test_an_image_stands_behind_the_prompt_of_a_chat():
    assert build({"image": URL})[0]["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": URL}},
            ],
        }
    ]


def test_an_image_stands_behind_the_prompt_of_a_response():
    made = build({"image": URL}, endpoint=RESPONSES, system="Be brief.")[0]
    assert made["instructions"] == "Be brief."
    assert made["input"] == [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is it?"},
                {"type": "input_image", "image_url": URL},
            ],
        }
    ]


def test_the_detail_goes_with_each_image():
    assert build({"image": URL}, image_detail="low")[0]["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": URL, "detail": "low"},
    }
    made = build({"image": URL}, image_detail="low", endpoint=RESPONSES)[0]
    assert made["input"][0]["content"][1] == {"type": "input_image", "image_url": URL, "detail": "low"}


def test_several_columns_and_lists_join_in_their_order():
    row = {"b": ["https://b/1", None, "https://b/2"], "a": "https://a", "none": None, "empty": ""}
    spec = {"image_columns": ["a", "b", "none", "empty"]}
    assert urls(row, **spec) == ["https://a", "https://b/1", "https://b/2"]


@pytest.mark.parametrize("nothing", [None, "", [], [None], {"bytes": None, "path": None}, {}])
def test_a_row_without_an_image_is_sent_as_text(nothing):
    assert build({"image": nothing})[0]["messages"] == [{"role": "user", "content": "What is it?"}]
    assert build({"image": nothing}, endpoint=RESPONSES)[0]["input"] == "What is it?"


def test_a_system_prompt_stays_before_the_images():
    messages = build({"image": URL}, system="Be brief.")[0]["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
def test_a_rows_own_messages_get_the_images_at_the_last_of_the_user(endpoint):
    column = "messages" if endpoint == CHAT else "input"
    own = [
        {"role": "user", "content": "Look."},
        {"role": "user", "content": [{"type": "other"}]},
        {"role": "assistant", "content": "Yes?"},
    ]
    row = {column: own, "image": URL}
    made = build(row, prompt=None, endpoint=endpoint)[0][column]
    assert made[0] == own[0]
    assert [part["type"] for part in made[1]["content"]] == [
        "other",
        "image_url" if endpoint == CHAT else "input_image",
    ]
    assert made[2] == own[2]
    assert own[1]["content"] == [{"type": "other"}], "the row's own are left as they are"


def test_messages_without_one_of_the_user_get_one():
    row = {"messages": [{"role": "system", "content": "Say what you see."}], "image": URL}
    assert build(row, prompt=None)[0]["messages"][1] == {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": URL}}],
    }


def test_a_ready_made_request_is_taken_as_it_is():
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    row = {"custom_id": "a", "method": "POST", "url": CHAT, "body": body, "image": PNG}
    made, shown = build(row)
    assert made == body
    assert shown == {"image": None}


@pytest.mark.parametrize(
    ("content", "kind"), [(PNG, "png"), (JPEG, "jpeg"), (GIF, "gif"), (b"GIF87a", "gif"), (WEBP, "webp")]
)
@pytest.mark.parametrize(
    "wrap", [bytes, bytearray, memoryview, lambda it: {"bytes": it, "path": "a.png"}, lambda it: [it]]
)
def test_bytes_become_a_data_url_of_their_kind(content, kind, wrap):
    assert urls({"image": wrap(content)}) == [data_url(content, kind)]


@pytest.mark.parametrize(
    "content", [b"BM...", b"<svg/>", b"", b"RIFF\x00\x00\x00\x00WAVE", b"%PDF-1.7", b"x\x89PNG\r\n\x1a\n"]
)
def test_bytes_of_another_kind_are_a_problem_of_the_row(content):
    if content:
        assert refusal({"image": content}) == "image: neither PNG, JPEG, GIF nor WebP, by the way it begins"
    else:
        assert refusal({"image": content}).startswith("image: neither")


@pytest.mark.parametrize("url", [URL, "http://h/a", "HTTPS://h/a", data_url(b"x"), "data:image/png,raw"])
def test_an_url_is_sent_as_it_is(url):
    assert urls({"image": url}) == [url]


def test_results_keep_urls_and_paths_and_leave_out_bytes(root):
    row = {
        "url": URL,
        "path": "cat.png",
        "bytes": PNG,
        "inline": data_url(PNG),
        "hf": {"bytes": PNG, "path": "cat.png"},
        "many": [URL, PNG],
        "other": b"kept",
    }
    made, shown = build(row, image_columns=list(row)[:-1], image_root=root)
    assert shown == {
        "url": URL,
        "path": "cat.png",
        "bytes": None,
        "inline": None,
        "hf": {"bytes": None, "path": "cat.png"},
        "many": [URL, None],
        "other": base64.b64encode(b"kept").decode(),
    }
    assert len(made["messages"][0]["content"]) == 8
    assert row["bytes"] == PNG


def test_a_path_is_read_below_the_root(root):
    for path, url in (
        ("cat.png", data_url(PNG)),
        ("./cat.png", data_url(PNG)),
        ("sub/dog 1.jpg", data_url(JPEG, "jpeg")),
        ("sub//dog 1.jpg", data_url(JPEG, "jpeg")),
    ):
        assert urls({"image": path}, image_root=root) == urls({"image": path}, image_root=f"file://{root}/") == [url]
    assert urls({"image": {"bytes": None, "path": "cat.png"}}, image_root=root) == [data_url(PNG)]


def test_a_root_may_be_on_any_store():
    with fsspec.open("memory://pictures/a/cat.png", "wb") as file:
        file.write(PNG)
    asked = []

    def resolve(url):
        asked.append(url)
        return fsspec.core.url_to_fs("memory://pictures")

    builder = RequestBuilder(
        RequestSpec(prompt="?", model="m", image_columns=["image"], image_root="store://it", resolve=resolve)
    )
    for _ in range(2):
        assert data_url(PNG) in json.dumps(builder.request({"image": "a/cat.png"})[1])
    assert asked == ["store://it"]


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "sub/../../secret.png", "..", "/etc/passwd", "//etc/passwd", "%2e%2e/secret.png",
     "..\\secret.png", "\\etc\\passwd", "%2Fetc%2Fpasswd", "a\0b", "sub/..%2f../secret.png"],
)  # fmt: skip
def test_no_path_leads_out_of_the_root(root, path):
    assert refusal({"image": path}, image_root=root) == f"image: {path!r} isn't below image_root"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "FILE:/etc/passwd", "s3://bucket/a.png", "local:a", "c:\\a.png"])
@pytest.mark.parametrize("with_root", [True, False])
def test_other_schemes_are_refused(root, url, with_root):
    told = refusal({"image": url}, image_root=root if with_root else None)
    assert told == f"image: {url!r}: only http, https and data URLs, and paths below image_root"


def test_a_path_without_a_root_says_what_is_missing():
    assert refusal({"image": "cat.png"}) == (
        "image: 'cat.png' is a path, and image_root= doesn't say below which folder it is"
    )


@pytest.mark.parametrize(
    ("path", "error"), [("none.png", "FileNotFoundError"), ("sub", "IsADirectoryError"), ("cat.png/x", "NotADirectory")]
)
def test_a_file_that_cannot_be_read_is_a_problem_of_the_row(root, path, error):
    assert refusal({"image": path}, image_root=root).startswith(f"image: {path!r} can't be read: {error}")


def test_a_file_that_is_no_image_is_a_problem_of_the_row(root):
    assert "neither PNG" in refusal({"image": "notes.txt"}, image_root=root)


def test_an_image_that_fits_no_batch_is_a_problem_of_the_row(root, monkeypatch):
    monkeypatch.setattr(images, "LARGEST", len(PNG) - 1)
    for image in (PNG, "cat.png"):
        told = refusal({"image": image}, image_root=root)
        assert told == f"image: an image of more than {len(PNG) - 1:,} bytes fits no batch"


def test_a_store_that_fails_is_no_fault_of_the_row(root):
    class Failing:
        def open(self, *_):
            raise ConnectionResetError("reset by peer")

    with pytest.raises(StoreError, match=r"'cat\.png' can't be read: ConnectionResetError: reset by peer"):
        build({"image": "cat.png"}, image_root=root, resolve=lambda _: (Failing(), "/x"))


def test_a_root_that_cannot_be_opened_is_the_operators_fault():
    with pytest.raises(ConfigurationError, match="image_root: nosuch://x can't be opened: ValueError"):
        build({"image": "cat.png"}, image_root="nosuch://x")


@pytest.mark.parametrize("value", [1, 1.5, True, [[URL]], np.array([1])], ids=repr)
def test_another_value_is_a_problem_of_the_row(value):
    assert refusal({"image": value}).startswith("image: an image is an URL, a path or bytes, not ")


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    assert refusal({"a": 1, "b": 2}) == "image: no such column; there are: a, b"


@pytest.mark.parametrize("endpoint", ["/v1/embeddings", "/v1/completions", "/v1/unknown"])
def test_endpoints_without_images_are_refused_at_once(endpoint):
    with pytest.raises(ConfigurationError, match="takes no images; /v1/chat/completions and /v1/responses do"):
        RequestBuilder(RequestSpec(model="m", endpoint=endpoint, image_columns=["image"]))


def test_images_of_tables_are_sent_as_those_of_rows():
    stored = pa.array(
        [{"bytes": PNG, "path": "a.png"}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    frame = pd.DataFrame({"raw": [PNG, None], "number": [1, 2]})
    for table, column in ((pa.table({"image": stored}), "image"), (frame, "raw")):
        first, second = (row.data for row in open_source(table).rows())
        assert urls(first, image_columns=[column]) == [data_url(PNG)]
        assert urls(second, image_columns=[column]) == []


def test_every_model_gets_the_images():
    builder = RequestBuilder(RequestSpec(prompt="?", model=["a", "b"], image_columns=["image"]))
    made = ChunkMaker(builder, Limits()).chunk(0, Rows("", 1, [{"image": URL}]))
    bodies = [json.loads(body) for body in made.bodies]
    assert [body["model"] for body in bodies] == ["a", "b"]
    assert [body["messages"][0]["content"][1]["image_url"]["url"] for body in bodies] == [URL] * 2
