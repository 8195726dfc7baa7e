"""Whole jobs on servers that aren't OpenAI: Azure in both styles, and a gateway with every oddity that was met."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack

import pytest

from airflow_openai_batch.client import ClientConfig, OpenAIBatchClient
from airflow_openai_batch.emulator.server import running
from airflow_openai_batch.engine.lifecycle import Rules
from airflow_openai_batch.engine.runner import advance
from airflow_openai_batch.exceptions import NotFoundError, RejectedError

AZURE_KEY = "0123456789abcdef0123456789abcdef"
OTHER_AZURE_KEY = "f" * 32
TOKEN = "eyJhbGciOi.J9.test"
QUICK = {"validating": 0.02, "in_progress": 0.05, "finalizing": 0.02, "cancelling": 0.02, "file_processing": 0.05}
SERVERS = ("azure_v1", "azure_classic", "azure_entra", "gateway")


def config_for(server, url, key=None):
    """How to reach an emulator that plays this server."""
    common = {"name": f"to_{server}", "max_retries": 1}
    if server == "gateway":
        return ClientConfig(api_key=key or "sk-test", base_url=f"{url}/v1", **common)
    if server == "azure_classic":
        common |= {"azure": "classic", "api_version": "2024-10-21", "base_url": f"{url}/openai"}
    else:
        common |= {"azure": "v1", "base_url": f"{url}/openai/v1/"}
    if server == "azure_entra":
        return ClientConfig(api_key="", token=lambda: key or TOKEN, **common)
    return ClientConfig(api_key=key or AZURE_KEY, **common)


class Served:
    """An emulator in a mode, and desks at it."""

    def __init__(self, server, emulator, desk, stack):
        self.server, self.emulator, self.ledger = server, emulator, emulator.ledger
        self.folder, self.finish = desk.folder, desk.finish
        self._desk, self._stack = type(desk), stack

    def desk(self, key=None):
        client = OpenAIBatchClient(config_for(self.server, self.emulator.url, key))
        self._stack.callback(client.close)
        return self._desk(self.folder, client)

    def job(self, rows, key=None, **options):
        desk = self.desk(key)
        return desk.job(rows, url=desk.api.config.wire_path("/v1/chat/completions"), **options)


@pytest.fixture
def serve(fakes):
    """Start an emulator that plays a server."""
    with ExitStack() as stack:

        def serve(server, **options):
            mode = "gateway" if server == "gateway" else "azure"
            emulator = stack.enter_context(running(mode=mode, **{**QUICK, **options}))
            return Served(server, emulator, fakes, stack)

        yield serve


def rows(*texts):
    return [{"prompt": text} for text in texts]


def folder_of(path):
    return {str(item): item.read_bytes() for item in sorted(path.glob("**/*")) if item.is_file()}


MIXED = rows(
    "one",
    "two [[emulate:status=500,once]]",
    "three [[emulate:error=request_timeout,once]]",
    "four [[emulate:lost,once]]",
    "five [[emulate:twice]]",
    "six [[emulate:status=400]]",
    "seven [[emulate:refusal]]",
    "eight",
    "nine [[emulate:garbled,once]]",
    "ten",
)
FATES = ["succeeded"] * 5 + ["failed", "refused"] + ["succeeded"] * 3


@pytest.mark.parametrize("server", SERVERS)
def test_every_row_lands_and_none_is_bought_twice(serve, server):
    served = serve(server)
    done = served.finish(served.job(MIXED, requests_per_batch=2))
    assert done.statuses == FATES
    assert [line["row"] for line in done.lines] == list(range(10))
    assert done.outputs[0] == "one"
    assert served.ledger.rows_billed_twice == 0
    assert len(done.manifest["batches"]) == len(served.ledger.batches) >= 6
    paths = {batch["endpoint"] for batch in served.ledger.batches}
    assert paths == {"/chat/completions" if server == "azure_classic" else "/v1/chat/completions"}
    assert done.manifest["endpoint"] == "/v1/chat/completions"
    assert served.ledger.files == []


@pytest.mark.parametrize("server", ["azure_v1", "gateway"])
def test_a_batch_that_has_no_failed_row_lands_with_its_empty_error_file(serve, server):
    served = serve(server)
    done = served.finish(served.job(rows("a", "b"), delete_files=False))
    assert done.statuses == ["succeeded"] * 2
    assert [file["bytes"] for file in served.ledger.files if "error" in file["filename"]] == [0]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("when", ["during", "after"])
def test_a_create_whose_answer_was_lost_is_adopted(serve, server, when):
    served = serve(server)
    for _ in range(3):
        served.finish(served.job(rows("an older batch"), out=served.folder / "out_old"))
    served.emulator.add_fault(fault="drop", call="batches.create", when=when)
    done = served.finish(served.job(rows("a", "b")))
    assert done.statuses == ["succeeded"] * 2
    assert len(served.ledger.batches) == 2
    assert served.ledger.rows_billed_twice == 0


@pytest.mark.parametrize("server", ["azure_v1", "gateway"])
def test_a_create_that_never_arrived_is_made_again_once_it_can_not_exist(serve, server, quick_rules):
    served = serve(server)
    served.emulator.add_fault(fault="drop", call="batches.create", when="before")
    done = served.finish(served.job(rows("a", "b"), rules=quick_rules))
    assert done.statuses == ["succeeded"] * 2
    assert (len(served.ledger.batches), served.ledger.rows_billed_twice) == (1, 0)


@pytest.mark.parametrize("server", ["azure_v1", "azure_classic"])
def test_shards_wait_where_azure_refuses_them_at_their_creation(serve, server, quick_rules):
    served = serve(server, token_limit=["30"], in_progress=1.0)
    texts = [f"{number} " + "x" * 60 for number in range(4)]
    done = served.finish(served.job(rows(*texts), requests_per_batch=1, rules=quick_rules), patience=30)
    assert done.statuses == ["succeeded"] * 4
    assert served.ledger.calls["batches.create"] > len(served.ledger.batches) >= 4
    assert served.ledger.rows_billed_twice == 0


def test_a_shard_that_azure_can_never_take_is_halved_by_the_limit_that_it_names(serve, quick_rules):
    served = serve("azure_v1", token_limit=["1000"])
    done = served.finish(served.job(rows(*(f"{n} " + "x" * 2_000 for n in range(3))), rules=quick_rules))
    assert done.statuses == ["succeeded"] * 3
    assert served.ledger.rows_billed_twice == 0
    assert len(served.ledger.batches) == 3
    # Known from the first refusal, rather than learnt from many.
    assert served.ledger.calls["batches.create"] <= 7


def test_a_batch_of_azure_is_not_cancelled_when_its_window_is_over(serve):
    served = serve("azure_classic", window=0.1, in_progress=1.0)
    done = served.finish(served.job(rows("slow"), rules=Rules(overdue=0.0)))
    assert done.statuses == ["succeeded"]
    assert "batches.cancel" not in served.ledger.calls


def test_a_download_from_a_server_without_ranges_begins_again(serve):
    served = serve("gateway")
    served.emulator.add_fault(fault="cut_download", call="files.content", after_bytes=40)
    done = served.finish(served.job(rows("a", "b", "c")))
    assert done.statuses == ["succeeded"] * 3
    assert served.ledger.rows_billed_twice == 0


# A key of another project.

KEYS = {
    "gateway": ("sk-ours", "sk-theirs"),
    "azure_v1": (AZURE_KEY, OTHER_AZURE_KEY),
    "azure_classic": (AZURE_KEY, OTHER_AZURE_KEY),
}


@pytest.fixture(params=KEYS)
def two_projects(request, serve):
    """A server with two projects, and a key of each."""
    ours, theirs = KEYS[request.param]
    return lambda **options: (serve(request.param, key=[f"{ours}=proj_a", f"{theirs}=proj_b"], **options), ours, theirs)


@pytest.mark.parametrize("batches", [1, 5])
def test_a_key_of_another_project_says_so_and_the_right_key_goes_on(two_projects, batches):
    served, ours, theirs = two_projects(in_progress=0.4)
    texts = rows(*map(str, range(batches)))
    advance(served.job(texts, ours, requests_per_batch=1))
    made = [batch["id"] for batch in served.ledger.batches]
    assert len(made) == batches
    before = folder_of(served.folder)
    with pytest.raises(NotFoundError) as caught:
        advance(served.job(texts, theirs, requests_per_batch=1))
    said = str(caught.value)
    assert any(batch_id in said for batch_id in made)
    assert f"connection 'to_{served.server}'" in said
    assert "key is of the same project" in said
    assert "aren't sent again" in said
    assert caught.value.retryable is False
    assert theirs not in said
    assert folder_of(served.folder) == before
    done = served.finish(served.job(texts, ours, requests_per_batch=1))
    assert done.statuses == ["succeeded"] * batches
    assert [batch["id"] for batch in served.ledger.batches] == made
    assert served.ledger.rows_billed_twice == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_create_is_not_given_up_by_a_key_that_can_not_see_it(two_projects, quick_rules, when):
    served, ours, theirs = two_projects()
    served.emulator.add_fault(fault="drop", call="batches.create", when=when)
    texts = rows("a", "b")
    # Without its own process to look for it: what the journal has is an intent.
    job = served.job(texts, ours, rules=quick_rules)
    job.api.list_batches = _interrupted
    with pytest.raises(KeyboardInterrupt):
        advance(job)
    time.sleep(0.4)
    for _ in range(2):
        with pytest.raises(
            NotFoundError, match=r"create of shard 00000\.r0\.a0 was lost, and its file .* nothing was b"
        ):
            advance(served.job(texts, theirs, rules=quick_rules))
    assert len(served.ledger.batches) == (when == "after")
    done = served.finish(served.job(texts, ours, rules=quick_rules))
    assert done.statuses == ["succeeded"] * 2
    assert (len(served.ledger.batches), served.ledger.rows_billed_twice) == (1, 0)


def _interrupted():
    raise KeyboardInterrupt


def test_a_create_that_was_given_up_stays_so_whoever_deleted_its_file(serve, quick_rules):
    served = serve("gateway")
    served.emulator.add_fault(fault="drop", call="batches.create", when="before")
    job = served.job(rows("a"), rules=quick_rules)
    deleted = job.api.delete_file
    job.api.delete_file = lambda file_id: (deleted(file_id), _interrupted())
    with pytest.raises(KeyboardInterrupt):
        served.finish(job)
    done = served.finish(served.job(rows("a"), rules=quick_rules))
    assert done.statuses == ["succeeded"]
    assert len(served.ledger.batches) == 1


def test_a_key_of_another_project_cancels_nothing_and_does_not_give_the_job_up(two_projects):
    served, ours, theirs = two_projects(in_progress=30)
    advance(served.job(rows("a"), ours))
    (made,) = [batch["id"] for batch in served.ledger.batches]
    with pytest.raises(NotFoundError, match=f"{made}.*It may run on and bill"):
        served.job(rows("a"), theirs).cancel("by a test")
    with pytest.raises(NotFoundError, match=made):
        advance(served.job(rows("b"), theirs, on_input_change="restart"))
    assert len(served.ledger.batches) == 1
    assert "batches.create" in served.ledger.calls
    assert served.job(rows("a"), ours).cancel("by a test") == (made,)


def test_a_list_that_tells_batches_apart_by_nothing_gives_no_create_up(serve, quick_rules):
    served = serve("gateway")
    served.emulator.add_fault(fault="drop", call="batches.create", when="after")
    job = served.job(rows("a"), rules=quick_rules)
    listed = job.api.list_batches
    hide = {"input_file_id": None, "metadata": {}}
    job.api.list_batches = lambda: (type(batch)(**{**vars(batch), **hide}) for batch in listed())
    with pytest.raises(
        RejectedError, match=r"Whether the create of shard 00000\.r0\.a0 made batch batch_.* can't be told"
    ):
        served.finish(job)
    assert len(served.ledger.batches) == 1
    assert served.finish(served.job(rows("a"), rules=quick_rules)).statuses == ["succeeded"]


@pytest.mark.parametrize("window", ["24h", "72h", "7d"])
def test_requests_go_to_a_gateway_inline_and_with_its_own_windows(serve, window):
    served = serve("gateway")
    done = served.finish(served.job(MIXED, requests_per_batch=2, submission="inline", completion_window=window))
    assert done.statuses == FATES
    assert served.ledger.rows_billed_twice == 0
    assert len(done.manifest["batches"]) == len(served.ledger.batches) >= 6
    assert "files.create" not in served.ledger.calls
    assert served.ledger.files == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_create_without_a_file_and_without_metadata_is_never_repeated_on_a_guess(serve, quick_rules, when):
    served = serve("gateway")
    served.emulator.add_fault(fault="drop", call="batches.create", when=when)
    job = served.job(rows("a"), submission="inline", rules=quick_rules)
    if when == "after":
        with pytest.raises(RejectedError, match=r"Whether the create .* made batch batch_.* can't be told"):
            served.finish(job)
    else:
        assert served.finish(job).statuses == ["succeeded"]
    assert len(served.ledger.batches) == 1


@pytest.mark.parametrize("when", ["during", "after"])
def test_a_lost_create_without_a_file_is_adopted_where_metadata_is_shown(serve, when):
    served = serve("azure_v1", oddity=["inline_create"])
    served.emulator.add_fault(fault="drop", call="batches.create", when=when)
    done = served.finish(served.job(rows("a", "b"), submission="inline"))
    assert done.statuses == ["succeeded"] * 2
    assert (len(served.ledger.batches), served.ledger.rows_billed_twice) == (1, 0)


def test_a_server_without_a_list_is_asked_for_each_batch(serve):
    served = serve("gateway")
    job = served.job(rows(*map(str, range(6))), requests_per_batch=1)

    def no_list():
        raise NotFoundError("Listing batches: not found", status=404)

    job.api.list_batches = no_list
    assert served.finish(job).statuses == ["succeeded"] * 6
    assert served.ledger.rows_billed_twice == 0


def test_the_form_of_the_paths_is_that_of_the_plan_whatever_the_connection_says_later(serve):
    served = serve("azure_classic", in_progress=0.3)
    advance(served.job(rows("a", "b [[emulate:status=500,once]]")))
    v1 = OpenAIBatchClient(config_for("azure_v1", served.emulator.url))
    done = served.finish(type(served.desk())(served.folder, v1).job(rows("a", "b [[emulate:status=500,once]]")))
    v1.close()
    assert done.statuses == ["succeeded"] * 2
    assert {batch["endpoint"] for batch in served.ledger.batches} == {"/chat/completions"}
    assert list(itertools.chain(*([b["rows"]] for b in served.ledger.batches))) == [2, 1]
