"""What Airflow's provider manager reads at start-up. Imports nothing, so that listing providers costs nothing.

The connection type is ``openai_batch`` rather than ``openai``: registering the latter would shadow the official
provider's hook. Connections of type ``openai`` are accepted all the same.
"""

from __future__ import annotations

from typing import Any

_EXTRA_FIELDS = {
    "organization": {
        "label": "Organization",
        "description": "OpenAI organization id (org-...). Empty: the key's own.",
        "schema": {"type": ["string", "null"]},
    },
    "project": {
        "label": "Project",
        "description": "OpenAI project id (proj_...). Empty: the key's own.",
        "schema": {"type": ["string", "null"]},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "How long one API call may take. Default 60. Transfers of files have 600, creating a batch 30.",
        "schema": {"type": ["number", "null"]},
    },
    "max_retries": {
        "label": "Retries",
        "description": "How often a call that is safe to repeat is repeated. Default 5. Creating a batch never is.",
        "schema": {"type": ["integer", "null"]},
    },
}

_OPTIONS = {
    "poll_interval": {
        "description": "Seconds between two looks at a waiting job's batches, where the operator doesn't say.",
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "60",
    },
    "deferrable": {
        "description": "Whether operators wait in the triggerer (True) or in a worker slot, where they don't say.",
        "version_added": "0.1.0",
        "type": "boolean",
        "example": None,
        "default": "True",
    },
    "concurrency": {
        "description": "Uploads and downloads that one task has under way at once.",
        "version_added": "0.1.0",
        "type": "integer",
        "example": None,
        "default": "4",
    },
    "min_wait": {
        "description": (
            "Seconds that a deferred task stays deferred at least. Airflow's scheduler can lose a task whose trigger "
            "fires within a few seconds of the deferral."
        ),
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "10",
    },
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata in the shape of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-openai-batch",
        "name": "OpenAI Batch",
        "description": "Datasets of any size through the OpenAI Batch API, results on object storage.",
        "connection-types": [
            {
                "connection-type": "openai_batch",
                "hook-class-name": "airflow_openai_batch.hooks.openai_batch.OpenAIBatchHook",
                "hook-name": "OpenAI Batch",
                "conn-fields": _EXTRA_FIELDS,
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "port", "login"],
                    "relabeling": {"password": "API key", "host": "Base URL"},
                    "placeholders": {
                        "password": "sk-...",
                        "host": "https://api.openai.com/v1",
                        "extra": '{"openai_client_kwargs": {}}',
                    },
                },
            }
        ],
        "task-decorators": [
            {
                "name": "openai_batch",
                "class-name": "airflow_openai_batch.decorators.openai_batch.openai_batch_task",
            }
        ],
        "extra-links": [
            "airflow_openai_batch.links.openai_batch.OpenAIBatchLink",
            "airflow_openai_batch.links.openai_batch.ResultsLink",
        ],
        "config": {
            "openai_batch": {
                "description": "Defaults of the OpenAI Batch provider.",
                "options": _OPTIONS,
            }
        },
    }
