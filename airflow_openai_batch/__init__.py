"""Apache Airflow provider: datasets of any size through the OpenAI Batch API, results on object storage.

Names are loaded when they are asked for, so importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from airflow_openai_batch.hooks.openai_batch import OpenAIBatchHook
    from airflow_openai_batch.operators.openai_batch import (
        OpenAIBatchCancelOperator,
        OpenAIBatchDownloadOperator,
        OpenAIBatchOperator,
        OpenAIBatchSubmitOperator,
    )
    from airflow_openai_batch.sensors.openai_batch import OpenAIBatchSensor
    from airflow_openai_batch.triggers.openai_batch import OpenAIBatchTrigger

_HOMES = {
    "OpenAIBatchCancelOperator": "operators",
    "OpenAIBatchDownloadOperator": "operators",
    "OpenAIBatchHook": "hooks",
    "OpenAIBatchOperator": "operators",
    "OpenAIBatchSensor": "sensors",
    "OpenAIBatchSubmitOperator": "operators",
    "OpenAIBatchTrigger": "triggers",
}

__all__ = [
    "OpenAIBatchCancelOperator",
    "OpenAIBatchDownloadOperator",
    "OpenAIBatchHook",
    "OpenAIBatchOperator",
    "OpenAIBatchSensor",
    "OpenAIBatchSubmitOperator",
    "OpenAIBatchTrigger",
    "__version__",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}.openai_batch"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
