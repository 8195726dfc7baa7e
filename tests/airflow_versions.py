"""What the tests need of Airflow's inner parts, which have other names in its earlier releases."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time import task_runner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


VERSION = tuple(int(part) for part in version("apache-airflow-core").split(".")[:2])


def _first(*places: str) -> Any:
    """Return what there is in the first module that has it; each place is ``module:name``."""
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"this Airflow has none of {', '.join(places)}")


DagBag = _first("airflow.dag_processing.dagbag:DagBag", "airflow.models.dagbag:DagBag")
DagSerialization = _first(
    "airflow.serialization.serialized_objects:DagSerialization",
    "airflow.serialization.serialized_objects:SerializedDAG",
)
ProvidersManagerTaskRuntime = _first(
    "airflow.sdk.providers_manager_runtime:ProvidersManagerTaskRuntime", "airflow.providers_manager:ProvidersManager"
)
import_string = _first("airflow.sdk.module_loading:import_string", "airflow.utils.module_loading:import_string")


def store_dag(dag: Any, folder: Path) -> None:
    """Put a DAG that is in no file into the database, where ``dag.test()`` looks for it."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    bundle = "dags-folder"
    DagBundlesManager().sync_bundles_to_db()
    file = folder / "made_by_a_test.py"
    # Up to 3.2 its text is stored as well, and must be there.
    file.write_text("# Made by a test.\n")
    dag.fileloc = str(file)
    dag.relative_fileloc = file.name
    bag = DagBag(dag_folder=str(folder), bundle_path=folder)
    bag.bundle_name = bundle
    bag.bag_dag(dag)
    if hasattr(bag, "sync_to_db"):
        bag.sync_to_db(bundle, None)  # 3.0
    else:
        sync = _first("airflow.dag_processing.dagbag:sync_bag_to_db", "airflow.models.dagbag:sync_bag_to_db")
        sync(bag, bundle, None)


@contextmanager
def noted_errors() -> Iterator[dict[str, BaseException]]:
    """Give the errors of the tasks that fail meanwhile, named as in ``Run``; not every callback's context has them."""
    errors: dict[str, BaseException] = {}
    finalize = task_runner.finalize

    def noting(ti: Any, state: Any, context: Any, log: Any, error: BaseException | None = None) -> None:
        if error is not None and str(getattr(state, "value", state)) == "failed":
            mapped = ti.map_index is not None and ti.map_index >= 0
            errors[f"{ti.task_id}[{ti.map_index}]" if mapped else ti.task_id] = error
        finalize(ti, state, context, log, error)

    task_runner.finalize = noting
    try:
        yield errors
    finally:
        task_runner.finalize = finalize
