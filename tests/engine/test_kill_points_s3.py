"""The same on S3; in a file of its own, so that it may run beside the others."""

from __future__ import annotations

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.engine.killed import judge, killed_at_every_point


@pytest.fixture
def s3():
    """A bucket on moto's server, and the environment that reaches it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.resource("s3", endpoint_url=endpoint, region_name="us-east-1").Bucket("kill-points").create()
    yield {"S3_ENDPOINT": endpoint}
    server.stop()


def test_a_job_on_s3_killed_at_every_second_point_ends_likewise(apis, s3):
    # All of them take three minutes, which the suite hasn't.
    judge(killed_at_every_point("s3://kill-points/jobs", apis, "--every", "2", **s3), every=2)
