"""Whatever dies at whatever moment, running the same job again loses no row and buys none twice."""

from __future__ import annotations

from tests.engine.killed import ROWS, judge, killed_at_every_point


def test_a_job_killed_at_any_point_ends_with_every_row_once_and_none_billed_twice(apis, tmp_path):
    judge(killed_at_every_point(str(tmp_path), apis))


def test_a_job_whose_requests_are_sent_inline_ends_likewise(apis, tmp_path):
    points = killed_at_every_point(str(tmp_path), apis, "--kind", "inline")
    assert len(points) > 20
    for point in points:
        assert (point["killed"], point["finished"], point["results"]) == (True, True, ROWS), point["name"]
        assert (point["billed_twice"], point["files_left"]) == (0, 0), point["name"]
    names = [point["name"] for point in points]
    assert {"before create_batch", "after create_batch"} <= set(names)
    assert not any("upload" in name for name in names)


def test_a_sifted_job_killed_at_any_point_ends_likewise_but_for_answers_that_were_on_their_way(apis, tmp_path):
    points = killed_at_every_point(str(tmp_path), apis, "--kind", "sifted")
    assert len(points) > 50
    for point in points:
        assert point["killed"], point["name"]
        assert point["finished"], point["name"]
        assert point["results"] == [[row, "succeeded"] for row in range(15)], point["name"]
        assert point["files_left"] == 0, point["name"]
        # Answers of direct calls that weren't written yet are asked for again; of a batch's, none.
        on_their_way = point["name"] == "after ask" or "_job/direct/" in point["name"]
        assert point["billed_twice"] <= (3 if on_their_way else 0), point["name"]
    assert any("_job/sift" in point["name"] for point in points)
    assert any("after ask" in point["name"] for point in points)
