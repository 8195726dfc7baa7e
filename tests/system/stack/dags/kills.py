"""The DAG whose runs have something taken away from them."""

from datetime import timedelta

from airflow.sdk import Param, dag

from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator


@dag(
    schedule=None,
    params={"scenario": Param("", type="string")},
    # While Redis is away, each attempt to queue a task uses up a try.
    default_args={"retries": 5, "retry_delay": timedelta(seconds=4)},
)
def kills():
    OpenAIBatchOperator(
        task_id="answer",
        source="s3://store@openai-batch/rows/{{ params.scenario }}.jsonl",
        destination="s3://store@openai-batch/kills/{{ params.scenario }}",
        prompt="{{ row.text }}",
        model="gpt-5-mini",
        metadata={"scenario": "{{ params.scenario }}"},
        poll_interval=1,
    )


kills()
