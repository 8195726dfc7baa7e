"""Where results go: a destination that is relative lies below ``[openai_batch] results_root``, where that is set."""

from __future__ import annotations

from airflow_openai_batch.exceptions import ConfigurationError


def below_root(destination: str) -> str:
    """Return a destination as it is meant.

    :param destination: as the user gave it, rendered. With a scheme, absolute or empty it is returned as it is; so is
        any other where ``results_root`` isn't set.
    :raises ConfigurationError: ``results_root`` is relative itself.
    """
    from airflow.configuration import conf

    if not destination or _is_whole(destination):
        return destination
    root = str(conf.get("openai_batch", "results_root", fallback="") or "").strip()
    if not root:
        return destination
    if not _is_whole(root):
        raise ConfigurationError(f"[openai_batch] results_root: a URL or an absolute path is needed, not {root!r}")
    return f"{root.rstrip('/')}/{destination}"


def _is_whole(address: str) -> bool:
    return "://" in address or address.startswith(("/", "~"))
