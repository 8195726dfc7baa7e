import json
from collections import Counter

import pytest


@pytest.fixture(scope="module")
def reviews(dags_folder):
    return [json.loads(line) for line in (dags_folder / "data" / "reviews.jsonl").read_bytes().splitlines()]


def test_there_are_enough_reviews_a_third_in_each_language(reviews):
    by_language = Counter(review["language"] for review in reviews)

    assert len(reviews) >= 246
    assert set(by_language) == {"en", "ko", "ja"}
    assert len(set(by_language.values())) == 1


def test_labels_are_balanced_in_each_language(reviews):
    counts = Counter((review["language"], review["label"]) for review in reviews)

    assert {label for _, label in counts} == {"positive", "negative"}
    assert len(set(counts.values())) == 1


def test_each_review_has_the_four_columns_and_a_text(reviews):
    assert all(list(review) == ["id", "language", "text", "label"] for review in reviews)
    assert all(review["text"].strip() == review["text"] != "" for review in reviews)


def test_ids_and_texts_are_unique_and_ids_name_the_language(reviews):
    assert len({review["id"] for review in reviews}) == len(reviews)
    assert len({review["text"] for review in reviews}) == len(reviews)
    assert all(review["id"].startswith(review["language"] + "-") for review in reviews)


def test_the_first_rows_are_a_mix_of_languages_and_labels(reviews):
    first = reviews[:12]

    assert {review["language"] for review in first} == {"en", "ko", "ja"}
    assert {review["label"] for review in first} == {"positive", "negative"}
