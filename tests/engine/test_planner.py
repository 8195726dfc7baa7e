"""Requests -> shards: split where a batch is full, and nothing left of a plan with a problem in it."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from airflow_openai_batch.engine.planner import JOINTS, Planner
from airflow_openai_batch.engine.repack import repack
from airflow_openai_batch.engine.requests import RequestBuilder, RequestSpec, measure
from airflow_openai_batch.engine.shards import SHARDS, Limits
from airflow_openai_batch.engine.sources import open_source
from airflow_openai_batch.engine.store import Store
from airflow_openai_batch.exceptions import InputError

EMBEDDINGS = "/v1/embeddings"


@pytest.fixture
def store(tmp_path):
    return Store.at(str(tmp_path / "out"))


def make(store, rows, *, requests=50_000, size=209_715_200, **spec):
    builder = RequestBuilder(RequestSpec(**{"model": "m", **spec}))
    return Planner(store, builder, Limits(requests, size)).plan(open_source(rows))


def lines(store, name):
    return [json.loads(line) for line in store.read(name).splitlines()]


def rows_of(store, plan):
    return [[int(line["custom_id"][1:]) for line in lines(store, f"{SHARDS}/{shard.name}")] for shard in plan.shards]


def prompts(count):
    return [{"prompt": f"row {n}"} for n in range(count)]


def mixed(models):
    return [
        {
            "custom_id": str(n),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": str(n)}]},
        }
        for n, model in enumerate(models)
    ]


def problems(rows, store=None, **options):
    with pytest.raises(InputError) as caught:
        make(store, rows, **options)
    return caught.value


def test_a_shard_holds_as_many_requests_as_a_batch_takes(store):
    plan = make(store, prompts(5), requests=2)
    assert rows_of(store, plan) == [[0, 1], [2, 3], [4]]
    assert [(shard.first, shard.last, shard.rows, shard.spans) for shard in plan.shards] == [
        (0, 1, 2, ((0, 1),)),
        (2, 3, 2, ((2, 3),)),
        (4, 4, 1, ((4, 4),)),
    ]


def test_a_shard_holds_as_many_bytes_as_a_batch_takes(store, tmp_path):
    (alone,) = make(Store.at(str(tmp_path / "alone")), prompts(1)).shards
    line = alone.bytes
    assert rows_of(store, make(store, prompts(5), size=3 * line)) == [[0, 1, 2], [3, 4]]


def test_a_shard_of_embeddings_holds_as_many_inputs_as_a_batch_takes(store):
    rows = [{"input": ["a"] * 2}, {"input": ["a"]}, {"input": "a"}, {"input": ["a"] * 3}]
    plan = make(store, rows, requests=4, endpoint=EMBEDDINGS)
    assert rows_of(store, plan) == [[0, 1, 2], [3]]


def test_each_model_has_shards_of_its_own(store):
    plan = make(store, mixed("abab"))
    assert [(shard.model, shard.spans) for shard in plan.shards] == [
        ("a", ((0, 0), (2, 2))),
        ("b", ((1, 1), (3, 3))),
    ]
    assert rows_of(store, plan) == [[0, 2], [1, 3]]


def test_parts_cover_consecutive_rows_however_models_are_mixed(store):
    plan = make(store, mixed("abababbbb"), requests=2)
    assert sorted(row for shard in rows_of(store, plan) for row in shard) == list(range(9))
    assert sum(part.rows for part in plan.parts) == 9
    for part in plan.parts:
        joints = lines(store, f"{JOINTS}/{part.number:05d}.jsonl")
        assert [joint["row"] for joint in joints] == list(range(part.first, part.first + part.rows))


def test_the_plan_says_what_each_file_holds(store):
    plan = make(store, prompts(3))
    (shard,) = plan.shards
    content = store.read(f"{SHARDS}/{shard.name}")
    assert (shard.bytes, shard.tokens, plan.rows) == (len(content), len(content) // 4, 3)
    assert content.endswith(b"\n")


def test_the_plan_remembers_where_rows_stood(store, write):
    path = write("a.jsonl", b'{"prompt":"a"}\n\n{"prompt":"b"}\n{"prompt":"c"}\n')
    spans = make(store, path).sources
    assert [(span.row, span.path, span.line) for span in spans] == [(0, path, 1), (1, path, 3)]


def test_many_scattered_rows_are_left_to_the_file_to_tell(store):
    plan = make(store, mixed("ab" * 1_100))
    assert [shard.spans for shard in plan.shards] == [None, None]


def test_the_digest_is_the_same_with_and_without_a_store(store):
    rows = mixed("aabba")
    assert make(store, rows, requests=2).digest == make(None, rows, requests=2).digest


def test_the_digest_changes_with_ids_and_columns_that_no_request_shows(store):
    rows = [{"prompt": "a", "label": 1, "custom_id": "x"}]
    digests = {make(None, [rows[0] | change]).digest for change in ({}, {"label": 2}, {"custom_id": "y"})}
    assert len(digests) == 3


def test_no_rows_is_a_problem(write):
    assert str(problems([])).endswith("source: it has no rows")
    assert str(problems(write("a.jsonl", b"\n \n"))).endswith("source: it has no rows")


def test_problems_name_file_line_and_field(write):
    path = write("a.jsonl", b'{"prompt":"a"}\nnope\n{"prompt":5}\n{"text":"b"}\n')
    shown = str(problems(path)).splitlines()
    assert shown[0] == "3 problems in the input; nothing was uploaded:"
    assert shown[1].startswith(f"  {path}, line 2: not JSON")
    assert shown[2] == f"  {path}, line 3: prompt: must be a string or a list, not int"
    assert shown[3].startswith(f"  {path}, line 4: prompt: no prompt= template")


def test_twenty_problems_are_shown_and_the_rest_counted():
    error = problems([{"prompt": n} for n in range(1_525)])
    assert (len(error.problems), error.count) == (20, 1_525)
    shown = str(error).splitlines()
    assert len(shown) == 22
    assert shown[0].startswith("1,525 problems in the input")
    assert shown[-1] == "  ... and 1,505 more"


@pytest.mark.parametrize(
    "rows",
    [
        [*prompts(30), {"prompt": 5}],
        [*prompts(30), None],
        [{"prompt": "a", "custom_id": "x"}, *prompts(30), {"prompt": "b", "custom_id": "x"}],
        [],
    ],
    ids=["bad row", "no row", "duplicate", "empty"],
)
def test_nothing_of_a_plan_with_a_problem_is_left(tmp_path, store, rows):
    problems(rows, store, requests=4)
    assert list(tmp_path.iterdir()) == []


def test_when_reading_breaks_the_files_of_another_attempt_at_the_plan_stay(tmp_path, store):
    def rows():
        yield from prompts(10)
        plans.append(make(store, prompts(10), requests=4))
        raise RuntimeError("the database is gone")

    plans = []
    with pytest.raises(RuntimeError, match="the database is gone"):
        make(store, rows, requests=4)
    left = {str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"_job/{kind}/{number:05d}.jsonl" for kind in ("shards", "rows") for number in range(3)}
    assert [store.size(f"_job/shards/{shard.name}") for shard in plans[0].shards] == [s.bytes for s in plans[0].shards]


def test_what_else_lies_at_the_destination_is_left_alone(tmp_path, store):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    problems([*prompts(10), 5], store, requests=4)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]


def test_a_request_too_large_for_any_batch_is_a_problem(write):
    path = write("a.jsonl", [{"prompt": "a"}, {"prompt": "b" * 500}])
    error = problems(path, size=300)
    assert error.count == 1
    assert f"{path}, line 2: its request has " in str(error)
    assert "bytes; a batch takes 300" in str(error)


def test_more_inputs_than_any_batch_takes_are_a_problem():
    error = problems([{"input": ["a"] * 5}], requests=4, endpoint=EMBEDDINGS)
    assert "row 0: input: 5 inputs; a batch takes 4" in str(error)


def test_an_id_that_stands_twice_is_a_problem_and_both_places_are_named(write):
    path = write("a.jsonl", [{"prompt": "a", "custom_id": name} for name in ("x", "y", "x", 7, "7", "x")])
    error = problems(path)
    assert [str(problem) for problem in error.problems] == [
        f"{path}, line 3: custom_id: 'x' stands already at {path}, line 1",
        f"{path}, line 5: custom_id: '7' stands already at {path}, line 4",
        f"{path}, line 6: custom_id: 'x' stands already at {path}, line 1",
    ]


def test_an_id_that_stands_in_two_files_is_a_problem(write, tmp_path):
    write("in/a.jsonl", [{"prompt": "a", "custom_id": "x"}])
    write("in/b.jsonl", [{"prompt": "a", "custom_id": "x"}])
    assert "b.jsonl, line 1: custom_id: 'x' stands already at" in str(problems(str(tmp_path / "in")))


def test_an_id_that_stands_twice_in_a_generator_is_a_problem(store, tmp_path):
    error = problems(({"prompt": "a", "custom_id": f"id {n % 3}"} for n in range(5)), store, requests=2)
    assert [str(problem) for problem in error.problems] == [
        "row 3: custom_id: 'id 0' stands already at row 0",
        "row 4: custom_id: 'id 1' stands already at row 1",
    ]
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_stands_twice_in_a_generator_is_found_without_a_store_too():
    error = problems({"prompt": "a", "custom_id": "x"} for _ in range(2))
    assert str(error).endswith("source: custom_id: 1 of them stand more than once")


def test_an_id_that_another_row_gets_from_us_is_a_problem(write):
    path = write("a.jsonl", [{"prompt": "a", "custom_id": "r1"}, {"prompt": "b"}, {"prompt": "c"}])
    (problem,) = problems(path).problems
    assert (problem.where, problem.field) == (f"{path}, line 2", "custom_id")
    assert problem.message == f"'r1' stands already at {path}, line 1 (a row without custom_id gets r and its number)"


@pytest.mark.parametrize("models", ["m", ["m", "n"]])
def test_it_is_one_however_far_apart_both_are(store, models):
    rows = [*prompts(5_000), *[{"prompt": "a", "custom_id": name} for name in ("x", "r7", "r07", "R8", "r5003")]]
    error = problems(rows, model=models)
    assert [str(problem).partition(" (")[0] for problem in error.problems] == [
        "row 5,001: custom_id: 'r7' stands already at row 7"
    ]
    error = problems((row for row in rows), store, model=models, requests=100)
    assert [str(problem).partition(" (")[0] for problem in error.problems] == [
        "row 5,001: custom_id: 'r7' stands already at row 7"
    ]


def test_rows_whose_own_ids_look_like_ours_stand_beside_rows_without():
    rows = [{"prompt": "a", "custom_id": "r0"}, {"prompt": "b"}, {"prompt": "c", "custom_id": "r2"}]
    again = (row for row in rows)
    assert make(None, rows).digest == make(None, again).digest
    swapped = [{"prompt": "a", "custom_id": "r1"}, {"prompt": "b", "custom_id": "r0"}]
    assert make(None, swapped).rows == 2


def test_an_empty_id_is_none(store, write):
    path = write("a.csv", b"custom_id,prompt\n,a\nx,b\n,c\n")
    make(store, path)
    assert [line["custom_id"] for line in lines(store, f"{JOINTS}/00000.jsonl")] == ["r0", "x", "r2"]
    (problem,) = problems([{"prompt": "a", "custom_id": name} for name in ("x", "", "", "x")]).problems
    assert str(problem) == "row 3: custom_id: 'x' stands already at row 0"


def test_a_later_round_holds_the_same_lines_for_its_rows_alone(store):
    plan = make(store, mixed("aaabbb"), requests=2)
    wanted = {1, 2, 3, 5}
    shards = [(shard, wanted) for shard in plan.shards]
    later = repack(store, 1, shards, Limits(2, 10_000), lambda line: measure(line, ""))
    assert [(shard.name, shard.model, shard.spans) for shard in later] == [
        ("00000.r1.jsonl", "a", ((1, 2),)),
        ("00001.r1.jsonl", "b", ((3, 3), (5, 5))),
    ]
    first = {line for shard in plan.shards for line in store.read(f"{SHARDS}/{shard.name}").splitlines()}
    again = [line for shard in later for line in store.read(f"{SHARDS}/{shard.name}").splitlines()]
    assert len(again) == 4
    assert first.issuperset(again)


def test_a_later_round_is_split_like_the_first(store):
    plan = make(store, prompts(6))
    later = repack(store, 1, [(plan.shards[0], set(range(5)))], Limits(2, 10_000), lambda line: measure(line, ""))
    assert [shard.spans for shard in later] == [((0, 1),), ((2, 3),), ((4, 4),)]


@pytest.mark.parametrize("size", [0, 1, 2, 7, 83, 256])
def test_blocks_are_cut_wherever_a_shard_is_full(store, size):
    """Rows come in blocks; each shard has as many as fit, as if they came one by one."""
    rows = [{"prompt": "x" * (n * 7 % 31)} for n in range(1_000)]
    (whole,) = make(Store.at(f"{store.url}-whole"), rows).shards
    sent = Store.at(f"{store.url}-whole").read(f"{SHARDS}/{whole.name}").splitlines(keepends=True)
    limit = 300 + size * 97
    wanted, room = [[]], limit
    for number, line in enumerate(sent):
        if len(line) > room:
            wanted.append([])
            room = limit
        wanted[-1].append(number)
        room -= len(line)
    table = pa.table({"prompt": [row["prompt"] for row in rows]})
    plan = make(store, table, size=limit)
    assert rows_of(store, plan) == wanted
    assert b"".join(store.read(f"{SHARDS}/{shard.name}") for shard in plan.shards) == b"".join(sent)
    assert [(part.first, part.rows) for part in plan.parts] == [(some[0], len(some)) for some in wanted]


def test_a_value_within_itself_is_a_problem_of_its_row(store):
    loop = {"prompt": "hi"}
    loop["self"] = loop
    told = str(problems([{"prompt": "a"}, loop, {"prompt": "b"}], store))
    assert "1 problem" in told
    assert "row 1: " in told
