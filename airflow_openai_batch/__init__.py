"""Apache Airflow provider: datasets of any size through the OpenAI Batch API, results on object storage.

Names are loaded when they are asked for, so importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from airflow_openai_batch.engine.merge import merge_manifests
    from airflow_openai_batch.hooks.openai_batch import OpenAIBatchHook
    from airflow_openai_batch.operators.openai_batch import (
        OpenAIBatchCancelOperator,
        OpenAIBatchDownloadOperator,
        OpenAIBatchEstimateOperator,
        OpenAIBatchOperator,
        OpenAIBatchSubmitOperator,
    )
    from airflow_openai_batch.partitions import list_partitions
    from airflow_openai_batch.reading import read_results
    from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor
    from airflow_openai_batch.triggers.openai_batch import OpenAIBatchTrigger

_HOMES = {
    "OpenAIBatchCancelOperator": "operators.openai_batch",
    "OpenAIBatchDownloadOperator": "operators.openai_batch",
    "OpenAIBatchEstimateOperator": "operators.openai_batch",
    "OpenAIBatchHook": "hooks.openai_batch",
    "OpenAIBatchOperator": "operators.openai_batch",
    "OpenAIBatchSensor": "sensors.openai_batch",
    "OpenAIBatchSubmitOperator": "operators.openai_batch",
    "OpenAIBatchTrigger": "triggers.openai_batch",
    "list_partitions": "partitions",
    "merge_manifests": "engine.merge",
    "read_results": "reading",
}

__all__ = [
    "OpenAIBatchCancelOperator",
    "OpenAIBatchDownloadOperator",
    "OpenAIBatchEstimateOperator",
    "OpenAIBatchHook",
    "OpenAIBatchOperator",
    "OpenAIBatchSensor",
    "OpenAIBatchSubmitOperator",
    "OpenAIBatchTrigger",
    "__version__",
    "list_partitions",
    "merge_manifests",
    "read_results",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
