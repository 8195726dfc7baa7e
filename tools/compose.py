"""Read a compose file as far as is needed to run its services as plain processes.

The whole of compose's interpolation is here (``$$``, ``${NAME}``, and ``:-``, ``-``, ``:+``, ``+``, ``:?``, ``?`` with
nested values), ``env_file`` of literal lines, profiles, replicas and health checks; no networks, no volumes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from tools.processes import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATORS = (":-", "-", ":+", "+", ":?", "?")


@dataclass(frozen=True)
class Service:
    """A service that is to run.

    :param command: entrypoint and command; empty where they are the image's own.
    :param environment: its variables, those of its files included.
    :param health: what tells whether it is well: program and arguments, or one line for a shell.
    :param build: the context of its Dockerfile, as the file spells it; None where the image is somebody else's.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    health: tuple[str, ...] | str = ()
    replicas: int = 1
    build: str | None = None


def load(path: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """Return the services that ``docker compose up`` would start.

    :param path: the compose file.
    :param variables: what ``.env`` and the environment hold.
    :raises StackError: a variable that must be set isn't.
    """
    content = interpolated(yaml.safe_load(path.read_text()), variables)
    wanted = set(variables.get("COMPOSE_PROFILES", "").split(","))
    services = {}
    for name, told in content["services"].items():
        if told.get("profiles") and not wanted & set(told["profiles"]):
            continue
        files = told.get("env_file", [])
        environment: dict[str, str] = {}
        for file in [files] if isinstance(files, str) else files:
            environment |= dotenv(path.parent / file)
        environment |= {key: str(value) for key, value in told.get("environment", {}).items()}
        services[name] = Service(
            name,
            command=(*map(str, told.get("entrypoint", ())), *map(str, told.get("command", ()))),
            environment=environment,
            health=_health(told.get("healthcheck", {}).get("test", ())),
            replicas=int(told.get("deploy", {}).get("replicas", 1)),
            build=told["build"]["context"] if "build" in told else None,
        )
    return services


def _health(test: list[str]) -> tuple[str, ...] | str:
    if not test:
        return ()
    return test[1] if test[0] == "CMD-SHELL" else tuple(map(str, test[1:]))


def dotenv(path: Path) -> dict[str, str]:
    """Return the variables of a file of ``NAME=value`` lines."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Return a value of the file with all variables in its strings replaced; keys stay as they are."""
    if isinstance(value, str):
        return interpolate(value, variables)
    if isinstance(value, dict):
        return {key: interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, variables) for each in value]
    return value


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace the variables in a text.

    :raises StackError: one that must be set isn't, or the text is malformed.
    """
    made = []
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        made.append(text[at:dollar])
        follows = text[dollar + 1 : dollar + 2]
        if follows == "$":
            made.append("$")
            at = dollar + 2
        elif follows == "{":
            end = _closing(text, dollar + 1)
            made.append(_expand(text[dollar + 2 : end], variables))
            at = end + 1
        elif name := _NAME.match(text, dollar + 1):
            made.append(variables.get(name[0], ""))
            at = name.end()
        else:
            raise StackError(f"Malformed: {text!r}")
    return "".join((*made, text[at:]))


def _closing(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        if text[at] == "{" and text[at - 1] == "$":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at
    raise StackError(f"Malformed: {text!r}")


def _expand(inside: str, variables: Mapping[str, str]) -> str:
    name = _NAME.match(inside)
    rest = inside[name.end() :] if name else ""
    operator = next((operator for operator in _OPERATORS if rest.startswith(operator)), "")
    if name is None or bool(rest) != bool(operator):
        raise StackError(f"Malformed: ${{{inside}}}")
    value = variables.get(name[0])
    there = bool(value) if operator.startswith(":") else value is not None
    other = rest[len(operator) :]
    if operator.endswith("+"):
        return interpolate(other, variables) if there else ""
    if there or not operator:
        return value or ""
    if operator.endswith("?"):
        raise StackError(f"{name[0]} isn't set. {interpolate(other, variables)}".strip())
    return interpolate(other, variables)
