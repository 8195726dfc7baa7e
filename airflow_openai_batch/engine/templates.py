"""Row templates: Jinja over one row, compiled once, in Jinja's sandbox.

Rows hold text from the internet, so a template can reach the row and nothing else: no Airflow context, no attributes of
Python objects, no files. A name inside ``row`` is a column, whatever methods a Python dict may have.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from airflow_openai_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable


class _RowEnvironment(ImmutableSandboxedEnvironment):
    """Columns, never methods: ``row.items`` and ``row["items"]`` are the column ``items``, or nothing."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self.getattr(obj, argument) if type(obj) is dict else super().getitem(obj, argument)


class _Missing(jinja2.StrictUndefined):
    """Says which columns there are."""

    @property
    def _undefined_message(self) -> str:
        if isinstance(self._undefined_obj, dict):
            return f"no column {self._undefined_name!r}; there are: {', '.join(map(str, self._undefined_obj))[:300]}"
        return super()._undefined_message


_ENVIRONMENT = _RowEnvironment(undefined=_Missing, autoescape=False, keep_trailing_newline=True)


_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What the values of a row may do to a template."""


class TemplateError(ValueError):
    """A template that couldn't be rendered for one row."""


def is_template(text: str) -> bool:
    """Whether a string has anything for Jinja to do."""
    return "{{" in text or "{%" in text or "{#" in text


def compile_text(text: str, field: str) -> Callable[[dict[str, Any]], str]:
    """Compile a row template.

    :param text: Jinja source; ``row`` is the row, ``row.column`` or ``row["a column"]`` a column of it.
    :param field: the parameter's name, for messages.
    :return: a function from row to text; it raises :class:`TemplateError`.
    :raises ConfigurationError: bad syntax, or a name other than ``row``.
    """
    if not is_template(text):
        return lambda _row: text
    try:
        tree = _ENVIRONMENT.parse(text)
        unknown = meta.find_undeclared_variables(tree) - {"row"}
        template = _ENVIRONMENT.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigurationError(f"{field}: not a template: {error.message} (line {error.lineno})") from error
    if unknown:
        name = min(unknown)
        raise ConfigurationError(
            f"{field}: unknown name {name!r}. A row template sees only `row`: write {{{{ row.{name} }}}} for a column. "
            "Airflow's own variables aren't visible there"
        )
    # What Template.render does, but for a copy of Jinja's globals for each row, which no row template may name.
    parts, context = template.root_render_func, _ENVIRONMENT.context_class

    def rendered(row: dict[str, Any]) -> str:
        try:
            return "".join(parts(context(_ENVIRONMENT, {"row": row}, None, {})))
        except jinja2.TemplateError as error:
            raise TemplateError(str(error.message or type(error).__name__)) from error
        except _ERRORS as error:
            raise TemplateError(f"{type(error).__name__}: {error}") from error

    return _shortcut(tree, rendered) or rendered


def _shortcut(
    tree: nodes.Template, rendered: Callable[[dict[str, Any]], str]
) -> Callable[[dict[str, Any]], str] | None:
    """Return a faster way to the same text for a template of words and columns alone, which most are; else None.

    Jinja's own way, a context for each row, takes eight times as long. What goes wrong here is left to it, for its
    message.
    """
    pattern, columns = "", []
    for node in tree.body:
        for part in node.nodes if isinstance(node, nodes.Output) else (node,):
            if isinstance(part, nodes.TemplateData):
                pattern += part.data.replace("%", "%%")
                continue
            column = _column(part)
            if column is None:
                return None
            pattern += "%s"
            columns.append(column)
    if not columns:
        return None
    first = columns[0]
    several = itemgetter(*columns) if len(columns) > 1 else None

    def filled(row: dict[str, Any]) -> str:
        if type(row) is dict:
            try:
                return pattern % (several(row) if several else (row[first],))
            except _ERRORS:
                pass
        return rendered(row)

    return filled


def _column(node: nodes.Node) -> str | None:
    """Return the column of ``row.column`` or ``row["column"]``, None for anything else."""
    name: Any = None
    if isinstance(node, nodes.Getattr):
        name = node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        name = node.arg.value
    of_row = name is not None and isinstance(node.node, nodes.Name) and node.node.name == "row"  # type: ignore[attr-defined]
    return name if of_row and isinstance(name, str) else None


def compile_value(value: Any, field: str) -> Callable[[dict[str, Any]], Any]:
    """Compile the strings inside a JSON-like value; anything without a template in it is passed as it is."""
    if isinstance(value, str):
        return compile_text(value, field)
    if isinstance(value, dict):
        pairs = [(key, compile_value(item, f"{field}.{key}")) for key, item in value.items()]
        if _constant(value):
            return lambda _row: value
        return lambda row: {key: render(row) for key, render in pairs}
    if isinstance(value, (list, tuple)):
        items = [compile_value(item, f"{field}[{index}]") for index, item in enumerate(value)]
        if _constant(value):
            return lambda _row: value
        return lambda row: [render(row) for render in items]
    return lambda _row: value


def _constant(value: Any) -> bool:
    if isinstance(value, str):
        return not is_template(value)
    if isinstance(value, dict):
        return all(map(_constant, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_constant, value))
    return True
