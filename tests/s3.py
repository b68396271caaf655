"""An S3 store for tests: moto over HTTP on a free port of loopback. Any test may ask for it."""

import logging
from uuid import uuid4

import pytest


@pytest.fixture(scope="session")
def s3_server():
    """The endpoint's URL; one server for all tests."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def environment_of(server: str) -> dict[str, str]:
    """What leads s3fs, boto3 and child processes to a server, with made-up credentials."""
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def s3(s3_server, monkeypatch) -> str:
    """The URL of a fresh bucket; the environment leads to it."""
    for name, value in environment_of(s3_server).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    import boto3

    bucket = f"atlas-{uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"
