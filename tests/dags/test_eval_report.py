import re

import eval_report
import pytest
from airflow.sdk import ObjectStoragePath


def result(label="positive", output="positive", *, status="succeeded", language="en", text="Good.", number=1):
    row = {"id": f"{language}-{number:03}", "language": language, "text": text, "label": label}
    return {"row": number, "input": row, "status": status, "output": output}


def night(date, accuracy, **more):
    scored = {"accuracy": accuracy, "rows": 100, "answered": 100, "correct": int((accuracy or 0) * 100)}
    empty = {"by_language": {}, "confusion": {"positive": {"positive": 1}}, "failed": {}, "wrong": []}
    return {"night": date, **scored, **empty, **more}


def test_accuracy_is_right_answers_over_answers():
    scored = eval_report.score([result(), result(), result("negative"), result("negative", "negative")])

    assert (scored["rows"], scored["answered"], scored["correct"], scored["accuracy"]) == (4, 4, 3, 0.75)


def test_accuracy_is_given_by_language_too():
    scored = eval_report.score([result(), result("negative", language="ko"), result(language="ko")])

    assert scored["by_language"]["en"]["accuracy"] == 1
    assert scored["by_language"]["ko"] == {"answered": 2, "correct": 1, "accuracy": 0.5}


def test_confusion_counts_answers_by_label():
    scored = eval_report.score([result(), result("negative"), result("negative", "perhaps")])

    assert scored["confusion"] == {
        "positive": {"positive": 1, "negative": 0, "other": 0},
        "negative": {"positive": 1, "negative": 0, "other": 1},
    }


@pytest.mark.parametrize("answer", ["positive", "Positive", " POSITIVE.\n", "positive!"])
def test_an_answer_is_read_whatever_its_case_and_punctuation(answer):
    assert eval_report.predicted_label(answer, ("positive", "negative")) == "positive"


@pytest.mark.parametrize("answer", ["not positive", "", None, {"label": "positive"}])
def test_an_answer_that_is_no_label_is_other(answer):
    assert eval_report.predicted_label(answer, ("positive", "negative")) == "other"


def test_rows_without_an_answer_are_counted_by_status_and_leave_accuracy_alone():
    scored = eval_report.score([result(), result(status="expired", output=None), result(status="failed", output=None)])

    assert scored["accuracy"] == 1
    assert scored["rows"] == 3
    assert scored["failed"] == {"expired": 1, "failed": 1}


def test_without_answers_there_is_no_accuracy():
    scored = eval_report.score([result(status="expired")])

    assert scored["accuracy"] is None
    assert scored["by_language"] == {}


def test_the_first_wrong_answers_are_kept():
    scored = eval_report.score(result("negative", "positive", number=number) for number in range(50))

    assert len(scored["wrong"]) == eval_report.WRONG_ANSWERS_KEPT
    assert scored["wrong"][0] == {
        "id": "en-000",
        "language": "en",
        "text": "Good.",
        "label": "negative",
        "answer": "positive",
    }


def test_results_are_read_part_after_part_with_line_separators_inside_texts(tmp_path):
    (tmp_path / "a").write_bytes('{"row": 0, "input": "one\u2028line"}\n'.encode())
    (tmp_path / "b").write_bytes(b'{"row": 1, "input": ""}\n')

    results = list(eval_report.read_results([tmp_path / "a", ObjectStoragePath(str(tmp_path / "b"))]))

    assert [each["row"] for each in results] == [0, 1]
    assert results[0]["input"] == "one\u2028line"


def test_a_night_that_is_recorded_again_replaces_its_line(tmp_path):
    path = ObjectStoragePath(str(tmp_path / "new folder" / "history.jsonl"))

    eval_report.record(path, night("2026-01-02", 0.9))
    eval_report.record(path, night("2026-01-01", 0.8))
    history = eval_report.record(path, night("2026-01-02", 0.7))

    assert [(known["night"], known["accuracy"]) for known in history] == [("2026-01-01", 0.8), ("2026-01-02", 0.7)]
    assert eval_report.read_history(path) == history


def test_a_missing_history_is_an_empty_one(tmp_path):
    assert eval_report.read_history(tmp_path / "history.jsonl") == []


def test_the_gate_passes_a_fall_of_just_the_threshold():
    history = [night("2026-01-01", 0.90), night("2026-01-02", 0.85)]

    assert "within 5.0%" in eval_report.check_accuracy(history, "2026-01-02", max_drop=0.05)


def test_the_gate_fails_a_fall_of_more_and_names_both_nights():
    history = [night("2026-01-01", 0.90), night("2026-01-02", 0.84)]

    with pytest.raises(
        eval_report.AccuracyDropError, match=r"2026-01-02: accuracy 84\.0% against 90\.0% of 2026-01-01"
    ):
        eval_report.check_accuracy(history, "2026-01-02", max_drop=0.05)


def test_the_gate_passes_a_first_night_and_a_better_one():
    history = [night("2026-01-01", 0.5), night("2026-01-02", 0.9)]

    assert "no earlier night" in eval_report.check_accuracy(history, "2026-01-01", max_drop=0.05)
    assert "90.0% against 50.0%" in eval_report.check_accuracy(history, "2026-01-02", max_drop=0.05)


def test_the_gate_compares_with_the_best_of_the_last_nights():
    history = [night("2026-01-01", 0.9), night("2026-01-02", 0.87), night("2026-01-03", 0.84)]

    eval_report.check_accuracy(history, "2026-01-03", max_drop=0.05, nights=1)
    with pytest.raises(eval_report.AccuracyDropError, match="of 2026-01-01"):
        eval_report.check_accuracy(history, "2026-01-03", max_drop=0.05, nights=2)


def test_the_gate_skips_earlier_nights_without_accuracy():
    history = [night("2026-01-01", 0.9), night("2026-01-02", None), night("2026-01-03", 0.5)]

    with pytest.raises(eval_report.AccuracyDropError, match="of 2026-01-01"):
        eval_report.check_accuracy(history, "2026-01-03", max_drop=0.05)


def test_the_gate_fails_a_night_without_answers():
    with pytest.raises(eval_report.AccuracyDropError, match="no row was answered"):
        eval_report.check_accuracy([night("2026-01-01", None)], "2026-01-01", max_drop=0.05)


def test_the_report_escapes_what_came_from_rows_and_answers():
    hostile = "<script>alert('1')</script>"
    wrong = [{"id": "en-001", "language": "en", "text": hostile, "label": "positive", "answer": f"$plot {hostile}"}]

    page = eval_report.render([night("2026-01-01", 0.9, wrong=wrong, model="<b>")], "2026-01-01")

    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;" in page
    assert "$plot &lt;script" in page


def test_the_report_needs_no_other_file():
    page = eval_report.render([night("2026-01-01", 0.9), night("2026-01-02", 0.8)], "2026-01-02")

    assert "<svg" in page
    assert re.findall(r"""<(?:script|link|img|iframe)|(?:src|href)=["'](?!#)|url\((?!#)""", page) == []


def test_the_report_shows_the_figures_of_its_night():
    scored = eval_report.score([result(), result("negative", text="재미없다", language="ko"), result(status="expired")])

    page = eval_report.render([{"night": "2026-01-02", "model": "gpt-5-mini", **scored}], "2026-01-02")

    assert "Accuracy of gpt-5-mini, 2026-01-02" in page
    assert "50.0%: 1 of 2 answers are right; there were 3 rows." in page
    assert "재미없다" in page
    assert "<td>expired</td><td>1</td>" in page


def test_the_plot_leaves_out_nights_after_the_reported_one_and_nights_without_accuracy():
    history = [night("2026-01-01", 0.9), night("2026-01-02", None), night("2026-01-03", 0.8)]

    assert eval_report.render(history, "2026-01-02") == eval_report.render(history[:2], "2026-01-02")


def test_the_plot_copes_with_a_year_of_nights():
    history = [night(f"2026-{month:02}-{day:02}", 0.9) for month in range(1, 13) for day in range(1, 29)]

    assert eval_report.plot(history).startswith("<svg")


def bought(date, usd, number, *, rows=100, model="m"):
    spent = {"usd": usd, "usd_standard": None if usd is None else 2 * usd, "bought": number}
    return night(date, 0.9, model=model, rows=rows, **spent)


def test_money_is_taken_from_the_manifest():
    manifest = {"rows": {"total": 10}, "cached": 6, "repeats": 1, "cost": {"usd": 0.5, "usd_standard": 1.0}}

    told = eval_report.money(manifest)

    assert told == {"usd": 0.5, "usd_standard": 1.0, "bought": 3, "cached": 6, "repeats": 1}


def test_rows_that_were_not_bought_are_worth_what_bought_ones_cost_until_then():
    first, second = eval_report.costs([bought("2026-01-01", 1.0, 100), bought("2026-01-02", 0.02, 2)])

    assert (first["usd"], first["by_batches"], first["by_cache"]) == (1.0, 1.0, 0.0)
    assert (second["usd"], second["by_batches"]) == (0.02, 0.02)
    assert second["by_cache"] == pytest.approx(98 * 1.02 / 102)


def test_another_model_has_prices_of_its_own():
    told = eval_report.costs([bought("2026-01-01", 1.0, 100), bought("2026-01-02", 0.0, 0, model="other")])

    assert told[1]["by_cache"] is None


def test_a_price_that_nobody_knows_leaves_its_night_and_the_sum_unknown():
    history = [bought("2026-01-01", None, 100), bought("2026-01-02", 0.5, 100)]

    page = eval_report.render(history, "2026-01-02")

    assert "<td>2026-01-01</td><td>100</td><td>100</td><td>unknown</td><td>unknown</td><td>$0.000000</td>" in page
    assert "<td>all nights</td><td>200</td><td>200</td><td>unknown</td>" in page


def test_the_report_shows_cost_and_saving_by_night():
    page = eval_report.render([bought("2026-01-01", 1.0, 100), bought("2026-01-02", 0.02, 2)], "2026-01-02")

    assert "<td>2026-01-01</td><td>100</td><td>100</td><td>$1.00</td><td>$1.00</td><td>$0.000000</td>" in page
    assert "<td>2026-01-02</td><td>100</td><td>2</td><td>$0.020000</td><td>$0.020000</td><td>$0.980000</td>" in page
    assert "<td>all nights</td><td>200</td><td>102</td><td>$1.02</td><td>$1.02</td>" in page


def test_nights_from_before_money_was_recorded_have_no_cost():
    page = eval_report.render([night("2026-01-01", 0.9)], "2026-01-01")

    assert "<p>Not recorded.</p>" in page
