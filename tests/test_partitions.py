"""A dataset's files and folders become the arguments of a mapped task."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_openai_batch import list_partitions
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.operators.base import resolve_source


@pytest.fixture
def dataset(tmp_path):
    """Make files below a folder of this name, each with a row in it unless told otherwise."""

    def make(*names, content='{"file": "%s"}\n'):
        for name in names:
            path = tmp_path / "reviews" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content.replace("%s", name).encode()
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / "reviews"

    return make


def rows(source):
    return [json.dumps(row.data) for row in open_source(str(source), resolve_source).rows()]


def listed(source, tmp_path, **options):
    """Return source and destination of each partition, without the folders that all have in common.

    Whatever the partitions are, they have the rows of the whole, each once and with the same columns.
    """
    parts = list_partitions(str(source), f"{tmp_path}/labels", **options)
    assert all(set(part) == {"source", "destination"} for part in parts)
    assert sorted(row for part in parts for row in rows(part["source"])) == sorted(rows(source))
    return [
        (part["source"].removeprefix(f"{tmp_path}/"), part["destination"].removeprefix(f"{tmp_path}/"))
        for part in parts
    ]


def failure(source, destination, **options):
    with pytest.raises(AirflowFailException) as caught:
        list_partitions(str(source), str(destination), **options)
    return str(caught.value)


def test_each_folder_of_a_partitioned_dataset_is_a_partition(dataset, tmp_path):
    folder = dataset("dt=2026-01-02/a.jsonl", "dt=2026-01-01/b.jsonl", "dt=2026-01-01/a.jsonl.gz")
    assert listed(folder, tmp_path) == [
        ("reviews/dt[=]2026-01-01", "labels/dt=2026-01-01"),
        ("reviews/dt[=]2026-01-02", "labels/dt=2026-01-02"),
    ]


def test_rows_of_a_partition_have_the_columns_that_its_folders_stand_for(dataset, tmp_path):
    folder = dataset("base=1/dt=2026-01-01/lang=en/a.jsonl") / "base=1"
    for source, by in [(folder, "file"), (folder, "folder"), (folder / "dt=*", None), (folder / "*" / "*", None)]:
        (part,) = list_partitions(str(source), f"{tmp_path}/labels", by=by)
        (row,) = rows(part["source"])
        columns = {"file": "base=1/dt=2026-01-01/lang=en/a.jsonl", "dt": "2026-01-01", "lang": "en"}
        assert json.loads(row) == columns, (source, by)
    # A folder that the user spelt out is a column of neither.
    (part,) = list_partitions(str(folder / "dt=2026-01-01" / "*"), f"{tmp_path}/labels")
    assert rows(part["source"]) == rows(folder / "dt=2026-01-01" / "*")
    assert "dt" not in json.loads(rows(part["source"])[0])


def test_folders_may_be_nested_and_called_anything(dataset, tmp_path):
    folder = dataset("dt=1/lang=ko/a.jsonl", "dt=1/lang=en/a.jsonl", "other/a.jsonl")
    assert [destination for _, destination in listed(folder, tmp_path)] == [
        "labels/dt=1/lang=en",
        "labels/dt=1/lang=ko",
        "labels/other",
    ]


def test_each_file_of_a_folder_of_files_is_a_partition(dataset, tmp_path):
    folder = dataset("b.jsonl", "a.jsonl.gz", "a.ndjson", "readme.txt")
    assert listed(folder, tmp_path) == [
        ("reviews/a.jsonl.gz", "labels/a.jsonl.gz"),
        ("reviews/a.ndjson", "labels/a.ndjson"),
        ("reviews/b.jsonl", "labels/b.jsonl"),
    ]


def test_a_glob_of_files_gives_a_partition_for_each(dataset, tmp_path):
    folder = dataset("en/a.jsonl", "en/b.jsonl", "ko/a.jsonl", "ko/other.jsonl")
    assert listed(folder / "*" / "?.jsonl", tmp_path) == [
        (f"reviews/{name}", f"labels/{name}") for name in ("en/a.jsonl", "en/b.jsonl", "ko/a.jsonl")
    ]


def test_a_glob_of_folders_gives_a_partition_for_each(dataset, tmp_path):
    folder = dataset("dt=2025-12-31/a.jsonl", "dt=2026-01-01/a.jsonl", "dt=2026-01-02/lang=en/a.jsonl")
    assert listed(folder / "dt=2026-*", tmp_path) == [
        ("reviews/dt[=]2026-01-01", "labels/dt=2026-01-01"),
        ("reviews/dt[=]2026-01-02/lang=en", "labels/dt=2026-01-02/lang=en"),
    ]


def test_by_folder_takes_the_matched_files_of_each_folder_together(dataset, tmp_path):
    folder = dataset("en/a.jsonl", "en/b.jsonl", "en/skip.ndjson", "ko/deep/a.jsonl")
    assert listed(folder / "**" / "*.jsonl", tmp_path, by="folder") == [
        ("reviews/en/*.jsonl", "labels/en"),
        ("reviews/ko/deep/*.jsonl", "labels/ko/deep"),
    ]
    assert listed(folder / "**", tmp_path, by="folder")[1] == ("reviews/ko/deep/*", "labels/ko/deep")


def test_by_folder_makes_one_partition_of_a_folder_of_files(dataset, tmp_path):
    assert listed(dataset("a.jsonl", "b.jsonl"), tmp_path, by="folder") == [("reviews", "labels/reviews")]


def test_by_file_takes_each_file_of_a_partitioned_dataset(dataset, tmp_path):
    folder = dataset("dt=1/a.jsonl", "dt=1/b.jsonl", "c.jsonl")
    assert listed(folder, tmp_path, by="file") == [
        ("reviews/c.jsonl", "labels/c.jsonl"),
        ("reviews/dt[=]1/a.jsonl", "labels/dt=1/a.jsonl"),
        ("reviews/dt[=]1/b.jsonl", "labels/dt=1/b.jsonl"),
    ]


def test_a_single_file_is_a_single_partition(dataset, tmp_path):
    assert listed(dataset("a.jsonl") / "a.jsonl", tmp_path) == [("reviews/a.jsonl", "labels/a.jsonl")]


def test_a_slash_at_the_end_changes_nothing(dataset, tmp_path):
    folder = dataset("dt=1/a.jsonl")
    assert list_partitions(f"{folder}/", f"{tmp_path}/labels/") == list_partitions(f"{folder}", f"{tmp_path}/labels")


def test_a_relative_path_is_made_absolute(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(dataset("a.jsonl"))
    assert listed("*.jsonl", tmp_path) == [("reviews/a.jsonl", "labels/a.jsonl")]


def test_a_partition_keeps_its_destination_whatever_others_come_and_go(dataset, tmp_path):
    folder = dataset("b c.jsonl", "d.jsonl")
    before = dict(listed(folder, tmp_path))
    dataset("a.jsonl", "b-c.jsonl", "b_c.jsonl", "d.jsonl.gz")
    Path(folder, "d.jsonl").unlink()
    after = dict(listed(folder, tmp_path))
    assert after["reviews/b c.jsonl"] == before["reviews/b c.jsonl"]
    assert len(set(after.values())) == 5


def test_names_that_a_store_may_dislike_become_safe_and_stay_apart(dataset, tmp_path):
    names = [
        "a:b.jsonl",
        "a b.jsonl",
        "a+b.jsonl",
        "a-b.jsonl",
        "[a]b.jsonl",
        "{{ a }}.jsonl",
        "a#?%41.jsonl",
        "맛집.jsonl",
    ]
    parts = listed(dataset(*names), tmp_path)
    destinations = [destination for _, destination in parts]
    assert len(set(destinations)) == len(names)
    assert {"labels/a-b.jsonl", "labels/맛집.jsonl"} <= set(destinations)
    assert not [text for text in destinations if set(text) & set(" :+[]{}#?%*")]


def test_files_and_folders_with_a_globs_marks_in_their_names_are_read_as_what_they_are(dataset, tmp_path):
    folder = dataset("a[1].jsonl", "*.jsonl", "a1.jsonl")
    assert len(listed(folder, tmp_path)) == 3
    folder = dataset("d/dt=[1]/a.jsonl", "d/dt=1/a.jsonl", "d/dt=*/b?.jsonl") / "d"
    assert len(listed(folder, tmp_path)) == 3
    assert len(listed(folder / "*" / "*.jsonl", tmp_path, by="folder")) == 3
    assert len(listed(folder, tmp_path, by="file")) == 3


def test_empty_files_empty_folders_and_hidden_ones_are_left_out(dataset, tmp_path):
    folder = dataset("dt=1/a.jsonl", "_job/shards/00000.jsonl", ".trash/a.jsonl", "dt=1/_tmp/b.jsonl", "dt=1/_c.jsonl")
    dataset("dt=2/a.jsonl", "dt=3/_SUCCESS", "dt=1/b.jsonl", content="")
    Path(folder, "dt=4").mkdir()
    dataset("dt=5/_SUCCESS", "dt=5/.a.jsonl.crc")
    assert listed(folder, tmp_path) == [("reviews/dt[=]1", "labels/dt=1")]
    assert listed(folder / "*", tmp_path) == [("reviews/dt[=]1", "labels/dt=1")]
    assert listed(folder / "dt=1" / "*.jsonl", tmp_path) == [("reviews/dt=1/a.jsonl", "labels/a.jsonl")]


@pytest.mark.parametrize("source", ["nowhere", "*.jsonl", "nowhere/*.jsonl", "nothing", "noth*", "empty.jsonl", "emp*"])
def test_a_source_without_rows_is_named(dataset, tmp_path, source):
    folder = dataset("empty.jsonl", content="")
    Path(folder, "nothing").mkdir()
    said = failure(folder / source, tmp_path / "labels")
    assert "no such file" in said or "no file with rows" in said
    assert str(folder) in said


@pytest.mark.parametrize("source", ["dt=2/a.avro", "dt=2/*", "**"])
def test_a_kind_of_file_that_is_not_read_here_is_named(dataset, tmp_path, source):
    folder = dataset("dt=1/a.jsonl", "dt=2/a.avro")
    assert f"{folder}/dt=2/a.avro: not a kind of file" in failure(folder / source, tmp_path / "labels")


def test_a_folder_with_files_and_folders_of_files_asks_what_is_meant(dataset, tmp_path):
    folder = dataset("a.jsonl", "dt=1/a.jsonl", "dt=1/lang=en/a.jsonl")
    assert 'say by="file"' in failure(folder, tmp_path / "labels")
    assert f"{folder}: it has files and also folders with files (dt=1)" in failure(folder, tmp_path, by="folder")
    assert "give a glob of one kind" in failure(folder / "*", tmp_path / "labels")
    # Read as a folder, it would be read with all that is below it.
    assert f"{folder}/dt=1: it has files and also" in failure(folder / "dt=*", tmp_path / "labels")
    assert len(listed(folder, tmp_path, by="file")) == 3


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("", ""),
        ("", "labels"),
        ("", "dt=1/labels"),
        ("dt=*", "dt=1/labels"),
        ("**/*.jsonl", "labels"),
        ("dt=1/*", "dt=1"),
    ],
)
def test_results_do_not_land_where_the_next_run_looks_for_rows(dataset, tmp_path, source, destination):
    folder = dataset("dt=1/a.jsonl", "dt=2/a.jsonl")
    assert "lies in the source" in failure(folder / source, folder / destination)


def test_a_glob_of_one_level_may_have_its_results_in_a_folder_beside_the_files(dataset):
    folder = dataset("a.jsonl")
    (part,) = list_partitions(f"{folder}/*.jsonl", f"{folder}/labels")
    assert part["destination"] == f"{folder}/labels/a.jsonl"


def test_more_partitions_than_airflow_maps_over_are_refused_with_what_to_do(dataset, tmp_path, monkeypatch):
    folder = dataset(*(f"dt={day}/{number}.jsonl" for day in range(2) for number in range(3)))
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "5")
    said = failure(folder, tmp_path / "labels", by="file")
    assert said.startswith("6 partitions, and Airflow maps a task over at most 5 ([core] max_map_length)")
    assert 'by="folder"' in said
    assert len(listed(folder, tmp_path)) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"by": "day"}, "by: file or folder is needed, not 'day'"),
        ({"destination": " "}, "destination: a folder is needed"),
        ({"source": None}, "source: a path, a glob or a folder is needed, not None"),
        ({"source": " "}, "source: a path, a glob or a folder is needed"),
        ({"source": "/tmp/**.jsonl"}, r"/tmp/\*\*.jsonl: can't be read: .*Invalid pattern"),
        ({"source": "nostore://bucket/rows"}, "nostore://bucket/rows: can't be opened"),
    ],
)
def test_wrong_arguments_are_named(dataset, tmp_path, given, message):
    arguments = {"source": str(dataset("a.jsonl")), "destination": f"{tmp_path}/labels", **given}
    with pytest.raises(AirflowFailException, match=message):
        list_partitions(**arguments)
