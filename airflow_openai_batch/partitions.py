"""A dataset's partitions as arguments of a mapped task: one job for each file or folder.

The files are those that one job over the whole source would read, and a row has the same columns in either. A partition
depends on nothing but its own path, so it has the same destination in every run with the same ``destination``, whatever
other partitions come and go, and a retry finds its job.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from glob import escape
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_openai_batch.exceptions import InputError

log = logging.getLogger(__name__)

_MARKS = re.compile(r"[*?\[]")

_UNSAFE = re.compile(r"[^\w.=-]")
"""What some store or URL has a meaning for; letters of any alphabet are safe."""


def list_partitions(
    source: str, destination: str, *, by: Literal["file", "folder"] | None = None
) -> list[dict[str, str]]:
    """List a dataset's partitions as arguments for ``expand_kwargs``.

    Call it in a task: it lists the store, which has no place in the parsing of a DAG::

        @task
        def partitions():
            return list_partitions("s3://lake@bucket/reviews", "s3://lake@bucket/labels")


        OpenAIBatchOperator.partial(task_id="label", prompt="{{ row.text }}").expand_kwargs(partitions())

    :param source: files on any store: a folder, a glob of files or of folders, or one path,
        ``s3://conn_id@bucket/prefix`` included. What the operator would read of it is listed; files without a byte are
        left out.
    :param destination: the folder that each entry's destination is in. Its name there is the partition's own path
        below ``source``, file suffix included: ``labels/dt=2026-01-01``, ``labels/part-0.jsonl``. Characters other than
        letters, digits and ``._=-`` become ``-``, and a hash of the path then keeps names apart.
    :param by: ``file``: an entry for each file. ``folder``: one for each folder that has files in it. Default:
        ``folder`` for a folder of folders and for a glob of folders, else ``file``.
    :return: ``{"source", "destination"}`` of each partition, in the order of their paths. In a source, ``[=]`` in the
        place of the ``=`` of a folder ``dt=2026-01-01`` makes it a glob, by which the rows keep their column ``dt``.
    :raises AirflowFailException: there is no file with rows, or one that can't be read; more than Airflow maps a task
        over (``[core] max_map_length``, default 1,024); a folder of which it isn't clear what a partition is; or
        ``destination`` lies where the next run would look for rows. No retry would help.
    """
    from airflow_openai_batch.exceptions import ConfigurationError
    from airflow_openai_batch.operators.base import final_errors

    with final_errors():
        if by not in {None, "file", "folder"}:
            raise ConfigurationError(f"by: file or folder is needed, not {by!r}")
        found = _find(source)
        _check_destination(destination, found)
        by = by or found.usual
        if by is None:
            raise _input_error(source, 'it has files and also folders with files; say by="file", or give a glob')
        sources = dict(_by_folder(found) if by == "folder" else _by_file(found))
        _check_count(len(sources))
        names = {path: _name(path) for path in sources}
        _check_names(names)
    log.info("%s has %s partitions", source, f"{len(names):,}")
    return [
        {"source": sources[path], "destination": f"{destination.rstrip('/')}/{name}"}
        for path, name in sorted(names.items())
    ]


@dataclass(frozen=True)
class _Found:
    """The files that partitions are made of.

    :param fs: the filesystem.
    :param base: the fixed part of the source's path, as the filesystem spells it; ``url``: as the user does.
    :param files: the files' paths below it.
    :param usual: the ``by`` that goes with the kind of source, None where either may be meant.
    :param last: the last part of a glob of files, else an empty string.
    :param deep: the folders of which every file is read, at any depth.
    """

    fs: Any
    base: str
    url: str
    files: tuple[str, ...]
    usual: Literal["file", "folder"] | None
    last: str = ""
    deep: tuple[str, ...] = ()


def _find(source: str) -> _Found:
    """Look for the source's files.

    :raises InputError: there are none, or some that can't be read here.
    """
    from airflow_openai_batch.engine.files import FileSource
    from airflow_openai_batch.operators.base import resolve_source

    if not isinstance(source, str) or not source.strip():
        raise _input_error("source", f"a path, a glob or a folder is needed, not {source!r}")
    try:
        fs, path = resolve_source(source)
    except (OSError, ValueError, ImportError) as error:
        raise _input_error(source, f"can't be opened: {type(error).__name__}: {error}") from error
    path = fs._strip_protocol(path)  # noqa: SLF001 - the spelling in which fsspec lists
    url = source.rstrip("/") if "://" in source else path
    # What has come since this process last looked is wanted too.
    fs.invalidate_cache()
    listed = FileSource(fs, path, url)
    base, segments = listed.base, path.removeprefix(listed.base).strip("/").split("/")
    files = tuple(name.removeprefix(f"{base}/") for name, size in listed.sizes().items() if size != 0)
    if not files:
        raise _input_error(source, "no file with rows in it")
    if path == base:
        nested = ["/" in file for file in files]
        kinds: dict[bool, Literal["file", "folder"]] = {all(nested): "folder", not any(nested): "file"}
        return _Found(fs, base, url, files, kinds.get(True), deep=(base,))
    base_url = url.removesuffix("/".join(segments)).rstrip("/")
    depths = {file.count("/") + 1 for file in files}
    if "**" in segments or depths == {len(segments)}:
        deep = (base,) if "**" in segments else ()
        return _Found(fs, base, base_url, files, "file", segments[-1].replace("**", "*"), deep)
    if len(segments) in depths:
        raise _input_error(source, "it matches files and folders; give a glob of one kind")
    folders = {"/".join(file.split("/")[: len(segments)]) for file in files}
    return _Found(fs, base, base_url, files, "folder", deep=tuple(f"{base}/{folder}" for folder in folders))


def _by_file(found: _Found) -> Iterator[tuple[str, str]]:
    for file in found.files:
        yield file, _source(found, file)


def _by_folder(found: _Found) -> Iterator[tuple[str, str]]:
    folders = {file.rpartition("/")[0] for file in found.files}
    for folder in sorted(folders):
        above = next((parent for parent in ("", *_parents(folder)) if parent != folder and parent in folders), None)
        if above is not None:
            raise _input_error(
                f"{found.url}/{above}".rstrip("/"),
                f'it has files and also folders with files ({folder}); say by="file", or give a glob of one level',
            )
        yield folder or found.base.rpartition("/")[2], _source(found, folder, found.last)


def _source(found: _Found, path: str, last: str = "") -> str:
    """Spell a path below the base so that it is read as a part of the whole is.

    Folders ``key=value`` become columns where they aren't in the fixed part of a path, so the first has to be a glob.
    """
    segments = [segment for segment in path.split("/") if segment]
    folders = segments if last or path not in found.files else segments[:-1]
    first = next((number for number, segment in enumerate(folders) if "=" in segment[1:]), None)
    if first is None and not last:
        return "/".join((found.url, *segments))
    spelt = [escape(segment) for segment in segments]
    if first is not None:
        spelt[first] = spelt[first][0] + spelt[first][1:].replace("=", "[=]", 1)
    return "/".join((escape(found.url), *spelt, *filter(None, (last,))))


def _name(path: str) -> str:
    safe = "/".join(_UNSAFE.sub("-", part) for part in path.split("/"))
    return safe if safe == path else f"{safe}-{blake2b(path.encode(), digest_size=5).hexdigest()}"


def _check_destination(destination: str, found: _Found) -> None:
    """See that results don't land where rows are looked for."""
    from airflow_openai_batch.exceptions import ConfigurationError
    from airflow_openai_batch.operators.base import resolve_source
    from airflow_openai_batch.operators.destination import below_root

    if not isinstance(destination, str) or not destination.strip():
        raise ConfigurationError(f"destination: a folder is needed, not {destination!r}")
    fs, path = resolve_source(below_root(destination))
    path = fs._strip_protocol(path).rstrip("/")  # noqa: SLF001 - as above
    inside = any(f"{path}/".startswith(f"{folder}/") for folder in found.deep)
    if fs.protocol == found.fs.protocol and (inside or path == found.base):
        raise ConfigurationError(
            f"destination: {destination} lies in the source, {found.url}, so that results would be taken for rows. "
            "Give a folder beside it"
        )


def _check_names(names: Mapping[str, str]) -> None:
    """See that no job's folder is another's, or inside it."""
    from airflow_openai_batch.exceptions import ConfigurationError

    owners: dict[str, str] = {}
    for path, name in names.items():
        other = owners.setdefault(name, path)
        if other != path:
            raise ConfigurationError(f"{other} and {path} would have the same destination, {name}")
    for name, path in owners.items():
        for parent in _parents(name):
            if parent in owners:
                raise ConfigurationError(f"the results of {path} would lie inside those of {owners[parent]}")


def _parents(name: str) -> Iterable[str]:
    parts = name.split("/")
    return ("/".join(parts[:length]) for length in range(1, len(parts)))


def _check_count(count: int) -> None:
    from airflow.configuration import conf

    from airflow_openai_batch.exceptions import ConfigurationError

    most = conf.getint("core", "max_map_length", fallback=1024)
    if count > most:
        raise ConfigurationError(
            f"{count:,} partitions, and Airflow maps a task over at most {most:,} ([core] max_map_length). "
            'Take larger ones: by="folder", or one task over a whole folder, which splits it into batches by itself; '
            "map several tasks over globs that match fewer; or raise the limit"
        )


def _input_error(where: str, message: str) -> InputError:
    from airflow_openai_batch.exceptions import InputError, Problem

    return InputError([Problem(where, "", message)])
