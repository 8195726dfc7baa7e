from datetime import timedelta
from types import SimpleNamespace

import pytest

from tests.airflow_versions import DagBag, DagSerialization

IDS = {
    "openai_batch_quickstart",
    "openai_batch_three_steps",
    "openai_batch_taskflow",
    "openai_batch_nightly_eval",
    "openai_batch_partitions",
}
MAPPED = {"openai_batch_partitions"}
PARAMS = {"source", "results", "conn_id", "model", "poll_interval"}


@pytest.fixture(scope="module")
def dagbag(dags_folder):
    return DagBag(dag_folder=str(dags_folder), load_op_links=False)


@pytest.fixture(params=sorted(IDS))
def dag(request, dagbag):
    return dagbag.dags[request.param]


@pytest.fixture
def batch_task(dag):
    """The attributes of the task that makes the batches, mapped or not."""
    if dag.dag_id in MAPPED:
        return next(SimpleNamespace(**task.partial_kwargs) for task in dag.tasks if task.is_mapped)
    return next(task for task in dag.tasks if getattr(task, "destination", None))


def test_all_examples_are_found_and_none_has_an_error(dagbag):
    assert dagbag.import_errors == {}
    assert set(dagbag.dags) == IDS


def test_it_can_be_stored_in_airflows_database(dag):
    stored = DagSerialization.to_dict(dag)

    assert stored["dag"]["dag_id"] == dag.dag_id


def test_data_connection_and_model_are_params_with_defaults(dag):
    params = dag.params.dump()

    assert params.keys() >= PARAMS
    assert params["conn_id"] == "openai_default"
    assert params["poll_interval"] == 60
    assert all(params.values())


def test_every_task_is_tried_again_soon(dag):
    assert all(task.retries >= 1 for task in dag.tasks)
    assert all(task.retry_delay <= timedelta(minutes=1) for task in dag.tasks)


def test_its_docstring_says_what_it_shows(dag):
    assert dag.doc_md.count("\n") >= 4
    assert "Shows" in dag.doc_md


def test_its_destination_is_unique_to_the_run(dag):
    if dag.dag_id in MAPPED:
        destinations = [task.op_args[1] for task in dag.tasks if task.task_id == "parts"]
    else:
        destinations = [task.destination for task in dag.tasks if getattr(task, "destination", None)]

    assert destinations
    assert all("run_id" in destination for destination in destinations)
    assert all(destination.startswith("{{ params.results }}/") for destination in destinations)


def test_the_batch_task_reads_its_settings_from_params(batch_task):
    assert batch_task.model == "{{ params.model }}"
    assert batch_task.conn_id == "{{ params.conn_id }}"


def test_the_sensor_of_the_three_steps_is_deferrable(dagbag):
    assert dagbag.dags["openai_batch_three_steps"].get_task("wait").deferrable


def test_three_steps_go_one_after_the_other(dagbag):
    dag = dagbag.dags["openai_batch_three_steps"]

    assert dag.get_task("wait").upstream_task_ids == {"submit"}
    assert dag.get_task("download").upstream_task_ids == {"submit", "wait"}


def test_nightly_eval_runs_every_night_without_catching_up_and_one_at_a_time(dagbag):
    dag = dagbag.dags["openai_batch_nightly_eval"]

    assert dag.schedule == "0 2 * * *"
    assert not dag.catchup
    assert dag.max_active_runs == 1


def test_nightly_eval_buys_with_care(dagbag):
    dag = dagbag.dags["openai_batch_nightly_eval"]
    answer, params = dag.get_task("answer"), dag.params.dump()

    assert answer.cache == "{{ params.results }}/nightly_eval/cache"
    assert answer.cache_ttl == timedelta(days=7)
    assert answer.deduplicate
    for name in ("max_cost_usd", "canary", "deadline"):
        assert getattr(answer, name) == f"{{{{ params.{name} }}}}"
    assert 0 < params["max_cost_usd"] <= 1
    assert 0 < params["canary"] <= 50
    assert params["deadline"] == "06:00"


def test_the_gate_comes_after_the_report_is_written(dagbag):
    dag = dagbag.dags["openai_batch_nightly_eval"]

    assert dag.get_task("report").upstream_task_ids == {"score"}
    assert "report" in dag.get_task("gate").upstream_task_ids


def test_partitions_are_listed_before_the_mapped_task_and_added_up_after_it(dagbag):
    dag = dagbag.dags["openai_batch_partitions"]

    assert dag.get_task("parts").upstream_task_ids == {"dataset"}
    assert dag.get_task("classify").is_mapped
    assert dag.get_task("classify").upstream_task_ids == {"parts"}
    assert dag.get_task("total").upstream_task_ids == {"classify"}
