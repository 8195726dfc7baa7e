"""Tables, frames and files of every kind as the rows of a task, through a whole job."""

from __future__ import annotations

import base64
import json
from datetime import date, datetime, timezone
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG, ObjectStoragePath, task

from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator

QUICK = {"model": "gpt-5-mini", "poll_interval": 0.2}
PROMPT = "Positive or negative? {{ row.text }}"
ROWS = {
    "text": ["great food", "awful food"],
    "day": [date(2026, 1, 1), None],
    "price": [Decimal("1.50"), None],
    "n": [2**53 + 1, None],
}
IN_RESULTS = [
    {"text": "great food", "day": "2026-01-01", "price": "1.50", "n": 2**53 + 1},
    {"text": "awful food", "day": None, "price": None, "n": None},
]
PNG = b"\x89PNG\r\n\x1a\n and the rest"

MAKERS = {
    "pandas": lambda: pd.DataFrame({**ROWS, "n": pd.array(ROWS["n"], dtype="Int64")}),
    "polars": lambda: pl.DataFrame(ROWS),
    "lazy": lambda: pl.DataFrame(ROWS).lazy(),
    "table": lambda: pa.table(ROWS),
    "reader": lambda: pa.table(ROWS).to_reader(max_chunksize=1),
    "dataset": lambda: ds.dataset(pa.table(ROWS)),
    "frames": lambda: (pl.DataFrame({name: values[i : i + 1] for name, values in ROWS.items()}) for i in (0, 1)),
}


def test_a_function_may_return_any_frame_or_table(run_dag, connection, tmp_path):
    with DAG("tables", schedule=None) as dag:
        for kind, make in MAKERS.items():

            @task.openai_batch(task_id=kind, destination=f"{tmp_path}/{kind}", prompt=PROMPT, **QUICK)
            def label(make=make):
                return make()

            label()
    run = run_dag(dag)
    for kind in MAKERS:
        assert run.outputs(kind) == ["positive", "negative"]
        assert [line["input"] for line in run.results(kind)] == IN_RESULTS


def test_a_frame_of_pandas_goes_by_xcom_or_as_it_is(run_dag, connection, tmp_path):
    with DAG("frame_by_xcom", schedule=None) as dag:

        @task
        def frame():
            return pd.DataFrame({"text": ["great food", "awful food"], "when": pd.to_datetime(["2026-01-01", None])})

        OpenAIBatchOperator(
            task_id="by_xcom", source=frame(), prompt=PROMPT, destination=f"{tmp_path}/by_xcom", **QUICK
        )
        OpenAIBatchOperator(
            task_id="as_it_is", source=MAKERS["table"](), prompt=PROMPT, destination=f"{tmp_path}/as_it_is", **QUICK
        )
    run = run_dag(dag)
    assert run.outputs("by_xcom") == run.outputs("as_it_is") == ["positive", "negative"]
    assert [line["input"]["when"] for line in run.results("by_xcom")] == ["2026-01-01T00:00:00", None]


FILES = (("csv", ".gz"), ("tsv", ""), ("parquet", ".zst"), ("jsonl", ".zst"))


def fill(folder, kind, packed):
    """Write a file of one row into each of two folders, as other tools leave them."""
    for number, text in enumerate(ROWS["text"]):
        path = folder / f"part={number}" / f"data.{kind}{packed}"
        path.parent.mkdir(parents=True)
        (path.parent / "_SUCCESS").touch()
        with pa.output_stream(str(path), compression={"": None, ".gz": "gzip", ".zst": "zstd"}[packed]) as stream:
            if kind == "parquet":
                pq.write_table(pa.table({"zip": ["01234"], "text": [text]}), stream)
            elif kind == "jsonl":
                stream.write(json.dumps({"zip": "01234", "text": text}).encode())
            else:
                stream.write(f"zip,text\n01234,{text}\n".replace(",", "\t" if kind == "tsv" else ",").encode())


def test_folders_of_files_of_every_kind_are_labelled(run_dag, connection, tmp_path):
    with DAG("files", schedule=None) as dag:
        for kind, packed in FILES:
            fill(tmp_path / kind, kind, packed)
            OpenAIBatchOperator(
                task_id=kind, source=f"{tmp_path}/{kind}", prompt=PROMPT, destination=f"{tmp_path}/out/{kind}", **QUICK
            )

        @task.openai_batch(destination=f"{tmp_path}/out/decorated", prompt=PROMPT, **QUICK)
        def decorated():
            return ObjectStoragePath(f"file://{tmp_path}/csv")

        decorated()
    run = run_dag(dag)
    for name in (*(kind for kind, _ in FILES), "decorated"):
        assert run.outputs(name) == ["positive", "negative"]
        assert [line["input"] for line in run.results(name)] == [
            {"zip": "01234", "text": text, "part": str(number)} for number, text in enumerate(ROWS["text"])
        ]


def test_files_that_do_not_go_together_fail_the_task_with_both_names(run_dag, connection, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "in" / "1.parquet")
    pq.write_table(pa.table({"text": ["a"], "n": ["1"]}), tmp_path / "in" / "2.parquet")
    with DAG("differing_files", schedule=None, default_args={"retries": 2}) as dag:
        OpenAIBatchOperator(
            task_id="label", source=f"{tmp_path}/in", prompt=PROMPT, destination=f"{tmp_path}/out", **QUICK
        )
    run = run_dag(dag)
    assert (run.states["label"], run.tries["label"]) == ("failed", 1)
    told = (
        f"{tmp_path}/in/2.parquet: its columns differ from those of {tmp_path}/in/1.parquet: 'n' is string, there int64"
    )
    assert told in str(run.errors["label"])


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_images_go_with_the_prompt_and_not_into_the_results(run_dag, connection, tmp_path, endpoint):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(PNG)
    rows = [
        {"text": "great food", "image": "a.png", "raw": None},
        {"text": "awful food", "image": "https://example.com/b.png", "raw": base64.b64encode(PNG).decode()},
    ]
    table = pa.table(
        {"text": ["great food", "awful food"], "image": ["a.png", "https://example.com/b.png"], "raw": [None, PNG]}
    )
    with DAG(f"images_{endpoint[-9:]}", schedule=None, params={"folder": "images"}) as dag:
        OpenAIBatchOperator(
            task_id="label",
            source=table,
            prompt=PROMPT,
            endpoint=endpoint,
            image_columns=["image", "raw"],
            image_root=f"{tmp_path}/{{{{ params.folder }}}}",
            image_detail="low",
            destination=f"{tmp_path}/out",
            **QUICK,
        )
    run = run_dag(dag)
    assert run.outputs("label") == ["positive", "negative"]
    assert [line["input"] for line in run.results("label")] == [{**row, "raw": None} for row in rows]
    sent = [
        json.loads(line)["body"] for line in next((tmp_path / "out/_job/shards").iterdir()).read_bytes().splitlines()
    ]
    kind = "image_url" if endpoint.endswith("completions") else "input_image"
    contents = [(body.get("messages") or body["input"])[0]["content"] for body in sent]
    assert [[part["type"] for part in content[1:]] for content in contents] == [[kind], [kind, kind]]
    assert base64.b64encode(PNG).decode() in json.dumps(contents[0])


def test_other_image_settings_make_another_job(run_dag, connection, tmp_path):
    def dag(**images):
        with DAG("image_settings", schedule=None) as dag:
            OpenAIBatchOperator(
                task_id="label",
                source=[{"text": "great food", "image": "https://example.com/a.png"}],
                prompt=PROMPT,
                destination=f"{tmp_path}/out",
                **images,
                **QUICK,
            )
        return dag

    once = dict.fromkeys(("logical_date", "run_after"), datetime(2026, 1, 2, tzinfo=timezone.utc))
    assert run_dag(dag(image_columns="image"), **once).state == "success"
    assert run_dag(dag(image_columns=["image"]), **once).state == "success"
    assert "image_detail changed" in str(
        run_dag(dag(image_columns="image", image_detail="low"), **once).errors["label"]
    )
    assert "image_columns changed" in str(run_dag(dag(), **once).errors["label"])
