"""Score a labelled batch, keep the history of the scores and draw the report; ``nightly_eval`` uses it.

There is no DAG here: plain functions over plain dicts, so that they can be tested and reused without Airflow. Paths
are ``ObjectStoragePath``s or anything else with the methods of ``pathlib.Path``, so that the history and the report
may live on S3.

An answer that isn't one of the labels is a wrong answer. A row without an answer (status other than ``succeeded``)
is neither right nor wrong: it is counted by its status in ``failed`` and left out of the accuracy.
"""

from __future__ import annotations

import html
import io
import json
from collections import Counter, defaultdict
from string import Template
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    class PathLike(Protocol):
        """What this module needs of a path; ``pathlib.Path`` and ``ObjectStoragePath`` both have it."""

        @property
        def parent(self) -> Any:
            """The folder."""

        def exists(self) -> bool:
            """Tell whether there is a file."""

        def mkdir(self, mode: int = ..., parents: bool = ..., exist_ok: bool = ...) -> None:
            """Make the folder."""

        def read_bytes(self) -> bytes:
            """Read it all."""

        def write_bytes(self, data: bytes, /) -> Any:
            """Replace it all."""


OTHER = "other"
WRONG_ANSWERS_KEPT = 20
NIGHTS_SHOWN = 14


class AccuracyDropError(Exception):
    """The accuracy of the night fell by more than the threshold."""


def read_results(files: Iterable[PathLike]) -> Iterator[dict[str, Any]]:
    """Yield the result lines of a job's JSON Lines parts, in order.

    :param files: the paths that the manifest lists under ``files``.
    """
    for file in files:
        for line in file.read_bytes().split(b"\n"):
            if line:
                yield json.loads(line)


def predicted_label(output: Any, labels: Iterable[str]) -> str:
    """Read a label out of an answer; case, spaces and a final full stop don't matter. Anything else is ``other``."""
    answer = str(output).strip().rstrip(".!").casefold()
    return next((label for label in labels if label.casefold() == answer), OTHER)


def score(results: Iterable[Mapping[str, Any]], labels: Sequence[str] = ("positive", "negative")) -> dict[str, Any]:
    """Compare the answers with the labels.

    :param results: result lines whose ``input`` has ``label`` and ``language``.
    :param labels: the labels that exist.
    :return: ``rows``, ``answered``, ``correct``, ``accuracy`` (``None`` when no row was answered), ``by_language``
        (the same three figures each), ``confusion`` (label to predicted label to count), ``failed`` (status to count)
        and ``wrong`` (the first 20 wrong answers: ``id, language, text, label, answer``).
    """
    failed: Counter[str] = Counter()
    confusion = {label: dict.fromkeys((*labels, OTHER), 0) for label in labels}
    answered: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    wrong: list[dict[str, str]] = []
    for result in results:
        row = result["input"]
        if result["status"] != "succeeded":
            failed[result["status"]] += 1
            continue
        predicted = predicted_label(result["output"], labels)
        confusion[row["label"]][predicted] += 1
        answered[row["language"]] += 1
        if predicted == row["label"]:
            correct[row["language"]] += 1
        elif len(wrong) < WRONG_ANSWERS_KEPT:
            wrong.append(
                {key: row[key] for key in ("id", "language", "text", "label")} | {"answer": str(result["output"])}
            )
    return {
        "rows": answered.total() + failed.total(),
        **_figures(answered.total(), correct.total()),
        "by_language": {language: _figures(answered[language], correct[language]) for language in sorted(answered)},
        "confusion": confusion,
        "failed": dict(failed),
        "wrong": wrong,
    }


def _figures(answered: int, correct: int) -> dict[str, Any]:
    return {"answered": answered, "correct": correct, "accuracy": round(correct / answered, 4) if answered else None}


def money(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a night cost.

    :param manifest: the batch job's.
    :return: ``usd``, ``usd_standard`` (the same requests one by one; both ``None`` where no price is known), and how
        many rows were ``bought``, ``cached`` (answered by an earlier job) and ``repeats`` of another row.
    """
    cached, repeats = manifest["cached"], manifest["repeats"]
    return {
        "usd": manifest["cost"]["usd"],
        "usd_standard": manifest["cost"]["usd_standard"],
        "bought": manifest["rows"]["total"] - cached - repeats,
        "cached": cached,
        "repeats": repeats,
    }


def costs(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what nights cost and saved, oldest first.

    :param history: nights; those from before money was recorded are left out.
    :return: for each ``night``, ``rows``, ``bought``, ``usd``, ``by_batches`` (saved against one by one) and
        ``by_cache``: what the other rows would have cost, at the mean of all that was bought until then with this
        model. ``None`` where that can't be told.
    """
    told = []
    spent: dict[str, list[float]] = defaultdict(list)
    bought: Counter[str] = Counter()
    for known in history:
        if "usd" not in known:
            continue
        model, usd = str(known.get("model")), known["usd"]
        if usd is not None:
            spent[model].append(usd)
            bought[model] += known["bought"]
        spared = known["rows"] - known["bought"]
        mean = sum(spent[model]) / bought[model] if bought[model] else None
        told.append(
            {
                "night": known["night"],
                "rows": known["rows"],
                "bought": known["bought"],
                "usd": usd,
                "by_batches": None if usd is None or known["usd_standard"] is None else known["usd_standard"] - usd,
                "by_cache": spared * mean if mean is not None else None if spared else 0.0,
            }
        )
    return told


def read_history(path: PathLike) -> list[dict[str, Any]]:
    """Read the history, oldest night first; a missing file is an empty one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def record(path: PathLike, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add a night to the history, replacing a line of the same night: a retry or another run doesn't double it.

    :param path: the history, JSON Lines.
    :param entry: the score, with ``night`` (an ISO date).
    :return: the whole history, oldest night first.
    """
    nights = {known["night"]: known for known in read_history(path)}
    nights[entry["night"]] = dict(entry)
    history = [nights[night] for night in sorted(nights)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(json.dumps(known, ensure_ascii=False).encode() + b"\n" for known in history))
    return history


def check_accuracy(history: Sequence[Mapping[str, Any]], night: str, *, max_drop: float, nights: int = 1) -> str:
    """Compare a night with the nights before it.

    :param history: the recorded nights, the one to check among them.
    :param night: the night to check.
    :param max_drop: the largest fall that passes, as a fraction: 0.05 lets 0.90 fall to 0.85.
    :param nights: how many earlier nights count; the best of them is the mark.
    :return: one sentence that says how it went.
    :raises AccuracyDropError: the accuracy fell by more than ``max_drop``, or no row was answered.
    """
    accuracy = next(known["accuracy"] for known in history if known["night"] == night)
    if accuracy is None:
        raise AccuracyDropError(f"{night}: no row was answered, so there is no accuracy to compare.")
    earlier = [known for known in history if known["night"] < night and known["accuracy"] is not None][-nights:]
    if not earlier:
        return f"{night}: accuracy {accuracy:.1%}; there is no earlier night to compare with."
    best = max(earlier, key=lambda known: known["accuracy"])
    against = f"{night}: accuracy {accuracy:.1%} against {best['accuracy']:.1%} of {best['night']}"
    # Rounded: 0.90 - 0.85 is a little more than 0.05 in floating point.
    if round(best["accuracy"] - accuracy, 6) > max_drop:
        raise AccuracyDropError(f"{against}: fell by more than {max_drop:.1%}.")
    return f"{against}: within {max_drop:.1%}."


def plot(history: Sequence[Mapping[str, Any]]) -> str:
    """Draw accuracy by night, overall and by language, as an SVG element."""
    import matplotlib as mpl  # here: a second that the DAG processor shouldn't pay at every parse
    from matplotlib.figure import Figure

    nights = [known["night"] for known in history]
    lines: dict[str, dict[str, float]] = defaultdict(dict)
    for known in history:
        for name, figures in {"all": known, **known["by_language"]}.items():
            if figures["accuracy"] is not None:
                lines[name][known["night"]] = figures["accuracy"]
    with mpl.rc_context({"svg.hashsalt": "accuracy"}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, by_night in lines.items():
            at = [position for position, night in enumerate(nights) if night in by_night]
            width = 2.5 if name == "all" else 1
            axes.plot(at, [by_night[nights[position]] for position in at], marker="o", linewidth=width, label=name)
        step = max(1, len(nights) // 10)
        axes.set_xticks(range(0, len(nights), step), nights[::step], rotation=30, ha="right")
        axes.set_ylabel("accuracy")
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(loc="lower left", ncols=len(lines))
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    return svg[svg.index("<svg") :]


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { border: 1px solid #ccc; padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<p>$summary</p>
$plot
<h2>Cost</h2>
$cost
<h2>By language</h2>
$by_language
<h2>Label against answer</h2>
$confusion
<h2>Rows without an answer</h2>
$failed
<h2>Wrong answers</h2>
$wrong
</body>
</html>
""")


def render(history: Sequence[Mapping[str, Any]], night: str) -> str:
    """Write the report of a night: one HTML page that needs no other file, with rows and answers escaped."""
    entry = next(known for known in history if known["night"] == night)
    summary = f"{entry['correct']} of {entry['answered']} answers are right; there were {entry['rows']} rows."
    predictions = list(next(iter(entry["confusion"].values()), {}))
    return PAGE.substitute(
        title=html.escape(f"Accuracy of {entry.get('model', 'the model')}, {night}"),
        summary=f"{_percent(entry['accuracy'])}: {summary}",
        plot=plot([known for known in history if known["night"] <= night]),
        cost=_cost_table([known for known in history if known["night"] <= night]),
        by_language=_table(
            ("language", "answered", "correct", "accuracy"),
            (
                (language, figures["answered"], figures["correct"], _percent(figures["accuracy"]))
                for language, figures in entry["by_language"].items()
            ),
        ),
        confusion=_table(
            ("label", *predictions),
            ((label, *(counts[name] for name in predictions)) for label, counts in entry["confusion"].items()),
        ),
        failed=_table(("status", "rows"), entry["failed"].items()) if entry["failed"] else "<p>None.</p>",
        wrong=_table(
            ("id", "language", "text", "label", "answer"),
            ([row[key] for key in ("id", "language", "text", "label", "answer")] for row in entry["wrong"]),
        )
        if entry["wrong"]
        else "<p>None.</p>",
    )


def _cost_table(history: Sequence[Mapping[str, Any]]) -> str:
    nights = costs(history)
    if not nights:
        return "<p>Not recorded.</p>"
    amounts = ("usd", "by_batches", "by_cache")
    lines = [
        (told["night"], told["rows"], told["bought"], *(_dollars(told[name]) for name in amounts)) for told in nights
    ]
    sums = [[told[name] for told in nights] for name in ("rows", "bought", *amounts)]
    rows, bought, *totals = [None if None in values else sum(values) for values in sums]
    head = ("night", "rows", "bought", "cost", "saved by batches", "saved by the cache, about")
    return _table(head, [*lines[-NIGHTS_SHOWN:], ("all nights", rows, bought, *map(_dollars, totals))])


def _dollars(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:,.2f}" if amount >= 1 else f"${amount:.6f}"


def _percent(accuracy: float | None) -> str:
    return "no answer" if accuracy is None else f"{accuracy:.1%}"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    def line(cells: Iterable[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return "<table>\n" + "\n".join([line(head, "th"), *(line(row, "td") for row in rows)]) + "\n</table>"
