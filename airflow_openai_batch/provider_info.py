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
    "azure_endpoint": {
        "label": "Azure endpoint",
        "description": (
            "Azure OpenAI: https://RESOURCE.openai.azure.com. The host field does as well. In Azure the model of a "
            "request is the name of a batch deployment."
        ),
        "schema": {"type": ["string", "null"]},
    },
    "api_version": {
        "label": "Azure API version",
        "description": "Azure OpenAI: e.g. 2024-10-21, for paths with an api-version. Empty: the v1 API.",
        "schema": {"type": ["string", "null"]},
    },
    "azure_auth": {
        "label": "Azure authentication",
        "description": (
            "key (default): the API key. entra: a service principal where tenant, client and its secret (as API key) "
            "are given, else the identity of the machine. Needs azure-identity."
        ),
        "schema": {"type": ["string", "null"], "enum": ["key", "entra", None]},
    },
    "azure_tenant_id": {
        "label": "Azure tenant ID",
        "description": "Entra: of the service principal.",
        "schema": {"type": ["string", "null"]},
    },
    "azure_client_id": {
        "label": "Azure client ID",
        "description": "Entra: of the service principal, or without a secret of a user-assigned managed identity.",
        "schema": {"type": ["string", "null"]},
    },
    "batch_paths": {
        "label": "Endpoints in batches",
        "description": (
            "v1: /v1/chat/completions. plain: /chat/completions. Empty: plain with an Azure API version, else v1."
        ),
        "schema": {"type": ["string", "null"], "enum": ["v1", "plain", None]},
    },
    "submission": {
        "label": "Requests go",
        "description": "file (default): as uploaded files. inline: in the create call, for gateways that work so.",
        "schema": {"type": ["string", "null"], "enum": ["file", "inline", None]},
    },
    "proxy": {
        "label": "Proxy",
        "description": "http://[user:password@]host:port for this connection. Empty: HTTPS_PROXY and NO_PROXY count.",
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "ca_bundle": {
        "label": "CA bundle",
        "description": (
            "A PEM file, or a folder with hashed names, of CAs to trust besides the usual ones; there on every worker "
            "and triggerer."
        ),
        "schema": {"type": ["string", "null"]},
    },
    "verify": {
        "label": "Verify certificates",
        "description": "false: don't check the server's certificate. For tests alone.",
        "schema": {"type": ["boolean", "null"], "default": True},
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
    "results_root": {
        "description": (
            "Folder that relative destinations lie below: a URL, with a connection if need be, or an absolute path. "
            "Empty: they are taken as they are."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "s3://aws_default@my-bucket/batches",
        "default": None,
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
