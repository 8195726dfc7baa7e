"""The troubleshooting page speaks of the errors that there are, in their own words."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import airflow_openai_batch
from airflow_openai_batch import exceptions
from airflow_openai_batch.exceptions import OpenAIBatchError

PACKAGE = Path(airflow_openai_batch.__file__).parent
DOCS = PACKAGE.parent / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text()

ERRORS = {
    name
    for name, value in vars(exceptions).items()
    if inspect.isclass(value) and issubclass(value, OpenAIBatchError) and not name.startswith("_")
}

SAID_BY_THE_PARAMETER = {"ConfigurationError", "InputError", "UnknownPriceError"}
"""Their texts begin with the parameter or the row and say what is needed; the page has those that need more words."""


def spelt(node: ast.expr) -> str:
    """Return a text as it stands in the code, with a mark for each value in it."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(spelt(value) if isinstance(value, ast.Constant) else "\0" for value in node.values)
    if isinstance(node, ast.BinOp):
        return spelt(node.left) + spelt(node.right)
    return ""


TREES = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py") if "emulator" not in path.parts]
TEXTS = {spelt(node) for tree in TREES for node in ast.walk(tree) if isinstance(node, (ast.Constant, ast.JoinedStr))}
RAISED = sorted(
    {
        (node.func.id, text)
        for tree in TREES
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args
        if len((text := spelt(node.args[0])).replace("\0", "").strip(". ")) > 10
    }
)
CELLS = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `")]
QUOTED = [quote for cell in CELLS for quote in re.findall(r"`([^`]+)`", cell)]


def pattern(quote: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part.strip()) for part in quote.split("...")), re.DOTALL)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_error_has_its_place_on_the_page(name):
    assert re.search(rf"\*\*{name}\*\*", PAGE)


@pytest.mark.parametrize("quote", sorted(set(QUOTED) - {"model_not_found"}))
def test_what_the_page_quotes_is_said_somewhere(quote):
    assert quote.strip(". :"), quote
    assert any(pattern(quote).search(text) for text in TEXTS), quote


def test_the_texts_of_the_package_are_found():
    assert len(RAISED) > 60
    assert ("JobUnfinishedError", "The job at ") in {(name, text.partition("\0")[0]) for name, text in RAISED}


@pytest.mark.parametrize(
    ("name", "text"),
    [pytest.param(*pair, id=f"{pair[0]}-{n}") for n, pair in enumerate(RAISED) if pair[0] not in SAID_BY_THE_PARAMETER],
)
def test_every_text_of_an_error_is_on_the_page(name, text):
    others = [quote for quote in QUOTED if len(quote.replace("...", "").strip(" :.")) > 8]
    assert any(pattern(quote).search(text) for quote in others), f"{name}: {text!r}"


@pytest.mark.parametrize("page", ["troubleshooting.md", "production.md", "money.md"])
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]*(?:#[^)]*)?)\)", (DOCS / page).read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = (DOCS / path).resolve() if path else DOCS / page
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, target


def test_the_page_is_found_from_the_others():
    assert "docs/troubleshooting.md" in (PACKAGE.parent / "README.md").read_text()
    assert "troubleshooting.md" in (DOCS / "production.md").read_text()
