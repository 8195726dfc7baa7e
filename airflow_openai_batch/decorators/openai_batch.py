"""``@task.openai_batch``: the decorated function gives the rows, the task gives the manifest."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    TaskDecorator,
    determine_kwargs,
    task_decorator_factory,
)

from airflow_openai_batch.exceptions import ConfigurationError
from airflow_openai_batch.operators.openai_batch import OpenAIBatchOperator
from airflow_openai_batch.operators.parameters import ParameterError, check_job, parameters_checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow.sdk import Context

    from airflow_openai_batch.engine.sources import Source


ROWS = ("source", "sql", "sql_conn_id")
"""Parameters of the operator that the function stands for."""


class OpenAIBatchDecoratedOperator(DecoratedOperator, OpenAIBatchOperator):
    """The operator behind the decorator; takes the parameters of :class:`OpenAIBatchOperator` but those of the rows.

    The function returns or yields prompts, rows or ready-made requests, or returns a path, a data frame or a table, or
    yields these piece by piece. It is called when the job is planned, and not again by a retry or after a deferral: the
    plan is on the store by then.
    """

    custom_operator_name = "@task.openai_batch"
    # In Airflow 3.0 DecoratedOperator asks for it, which no operator has, and doesn't use it.
    xcom_push: ClassVar[None] = None
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in OpenAIBatchOperator.template_fields if name not in ROWS),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {**DecoratedOperator.template_fields_renderers}

    def __init__(self, *, python_callable: Callable[..., Any], **kwargs: Any) -> None:
        if inspect.iscoroutinefunction(python_callable) or inspect.isasyncgenfunction(python_callable):
            raise ParameterError(f"@task.openai_batch: {python_callable.__name__} is async; give a plain function")
        super().__init__(source=None, python_callable=python_callable, **kwargs)

    def check_source(self) -> None:
        """Check that the function alone gives the rows."""
        check_rows(name for name in ROWS if getattr(self, name) is not None)

    def open_source(self, context: Context) -> Source:
        """Return the source that the function's rows are, whenever they are asked for."""
        from airflow_openai_batch.engine.sources import IterableSource

        return IterableSource(lambda: self._call(context))

    def _call(self, context: Context) -> Any:
        from airflow_openai_batch.engine.sources import open_source
        from airflow_openai_batch.operators.base import resolve_source

        kwargs = determine_kwargs(self.python_callable, self.op_args, {**context, **self.op_kwargs})
        given = self.python_callable(*self.op_args, **kwargs)
        return open_source(given, resolve_source) if isinstance(given, str) else given


def check_rows(given: Iterable[str]) -> None:
    """Check that no parameter is given that the function stands for."""
    if names := ", ".join(given):
        raise ConfigurationError(f"@task.openai_batch: the function gives the rows; leave out {names}")


def openai_batch_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make a task of a function that gives rows.

    :param python_callable: the function; None where the decorator is called with parameters.
    :param kwargs: parameters of :class:`OpenAIBatchOperator` but those of the rows.
    :raises ConfigurationError: one that can't be right; said here because a mapped task is made on the worker only.
    """
    with parameters_checked():
        check_rows(name for name in ROWS if name in kwargs)
        check_job(kwargs)
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=OpenAIBatchDecoratedOperator, **kwargs
    )
