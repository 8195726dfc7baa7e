"""Templates reach the row's columns and nothing else."""

from __future__ import annotations

import jinja2
import pytest

from airflow_openai_batch.engine.templates import TemplateError, compile_text, compile_value, is_template
from airflow_openai_batch.exceptions import ConfigurationError


def render(text, /, **row):
    return compile_text(text, "prompt")(row)


@pytest.mark.parametrize("name", ["items", "keys", "values", "get", "pop", "update", "copy"])
def test_a_column_may_have_the_name_of_a_dict_method(name):
    assert render(f"{{{{ row.{name} }}}} {{{{ row['{name}'] }}}}", **{name: "mine"}) == "mine mine"


@pytest.mark.parametrize("text", ["{{ row.items }}", "{{ row['items'] }}", "{{ row | attr('items') }}"])
def test_a_dict_method_is_never_a_column(text):
    with pytest.raises(TemplateError, match="no column 'items'; there are: text, stars"):
        render(text, text="good", stars=5)


def test_a_column_inside_a_column_is_found():
    assert render("{{ row.author.name }} {{ row.tags[0] }}", author={"name": "Kim"}, tags=["a"]) == "Kim a"


def test_a_column_with_a_blank_in_its_name_is_found():
    assert render("{{ row['a column'] }}", **{"a column": 1}) == "1"


@pytest.mark.parametrize(("value", "text"), [(1, "1"), (1.5, "1.5"), (True, "True"), ([1, "a"], "[1, 'a']")])
def test_a_value_that_is_no_string_is_spelt_as_python_does(value, text):
    assert render("{{ row.value }}", value=value) == text


def test_text_of_a_row_is_never_a_template_itself():
    assert render("{{ row.text }}", text="{{ 1 + 1 }} <b>&</b>") == "{{ 1 + 1 }} <b>&</b>"


def test_a_newline_at_the_end_is_kept():
    assert render("{{ row.a }}\n", a=1) == "1\n"


@pytest.mark.parametrize(
    "text",
    [
        "{{ row.__class__.__mro__ }}",
        "{{ row['__class__'] }}",
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ row.text.__init__.__globals__ }}",
        "{{ row.text | attr('__class__') }}",
        "{{ row.tags.append(1) }}",
        "{{ row.tags.__class__.__base__.__subclasses__() }}",
        "{{ '{0.__class__}'.format(row) }}",
        "{% include '/etc/hostname' %}",
        "{% import 'os' as os %}",
    ],
)
def test_nothing_but_the_row_can_be_reached(text):
    with pytest.raises(TemplateError):
        render(text, text="good", tags=[])


@pytest.mark.parametrize("text", ["{{ row.text + 1 }}", "{{ 1 // row.zero }}", "{{ row.text() }}", "{{ row.a.b }}"])
def test_what_goes_wrong_in_a_template_is_an_error_of_the_row(text):
    with pytest.raises(TemplateError):
        render(text, text="a", zero=0, a="b")


def test_an_unknown_name_is_found_before_any_row_and_says_what_to_write():
    with pytest.raises(ConfigurationError, match=r"prompt: unknown name 'ds'.*write \{\{ row.ds \}\} for a column"):
        compile_text("{{ ds }}", "prompt")


def test_bad_syntax_is_found_before_any_row():
    with pytest.raises(ConfigurationError, match=r"system: not a template: .* \(line 2\)"):
        compile_text("a\n{{ row.text", "system")


def test_an_unknown_filter_is_found_before_any_row():
    with pytest.raises(ConfigurationError, match="No filter named 'nosuch'"):
        compile_text("{{ row.a | nosuch }}", "prompt")


def test_templates_inside_a_body_are_rendered_wherever_they_stand():
    body = {"user": "{{ row.id }}", "messages": [{"content": ["{{ row.text }}", 5]}], "n": 1, "stop": None}
    assert compile_value(body, "body")({"id": 7, "text": "hi"}) == {
        "user": "7",
        "messages": [{"content": ["hi", 5]}],
        "n": 1,
        "stop": None,
    }


def test_a_bad_template_inside_a_body_is_named_by_its_place():
    with pytest.raises(ConfigurationError, match=r"body\.messages\[0\]\.content: unknown name 'text'"):
        compile_value({"messages": [{"content": "{{ text }}"}]}, "body")


@pytest.mark.parametrize(("text", "is_one"), [("{{ a }}", True), ("{% if %}", True), ("{# #}", True), ("{a}", False)])
def test_only_what_jinja_has_work_with_is_a_template(text, is_one):
    assert is_template(text) is is_one


@pytest.mark.parametrize(
    "text",
    [
        "{{ row.a }}",
        "100 % of {{ row.a }}%s {{ row['b'] }}",
        "{{row.a}}{{row.b}}",
        "{{- row.a -}} \n x",
        "é{{ row.b }}\n",
    ],
)
@pytest.mark.parametrize("value", ["x % y", "", None, 1.0, True, [1, "a"], {"k": "v"}, ("a", "b")])
def test_the_shortcut_for_columns_alone_says_what_jinja_says(text, value):
    row = {"a": value, "b": "B"}
    assert compile_text(text, "prompt")(row) == jinja2.Template(text, keep_trailing_newline=True).render(row=row)
