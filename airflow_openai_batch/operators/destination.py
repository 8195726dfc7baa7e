"""Where results go: a destination that is relative lies below ``[openai_batch] results_root``, where that is set."""

from __future__ import annotations

import os

from airflow_openai_batch.exceptions import ConfigurationError


def below_root(destination: str) -> str:
    """Return a destination as it is meant.

    :param destination: as the user gave it, rendered. With a scheme, absolute or empty it is returned as it is; so is
        any other where ``results_root`` isn't set. ``~`` is the home folder.
    :raises ConfigurationError: ``results_root`` is relative itself.
    """
    from airflow.configuration import conf

    destination = expanded(destination)
    if not destination or _is_whole(destination):
        return destination
    root = expanded(str(conf.get("openai_batch", "results_root", fallback="") or "").strip())
    if not root:
        return destination
    if not _is_whole(root):
        raise ConfigurationError(f"[openai_batch] results_root: a URL or an absolute path is needed, not {root!r}")
    return f"{root.rstrip('/')}/{destination}"


def expanded(address: str) -> str:
    """Return a local path with ``~`` and ``~user`` as the home folder; a URL, and one of no user's, as it is."""
    return address if "://" in address else os.path.expanduser(address)  # noqa: PTH111 - Path's fails for no user's


def _is_whole(address: str) -> bool:
    return "://" in address or address.startswith("/")
