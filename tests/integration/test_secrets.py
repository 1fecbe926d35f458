"""Canaries: secrets that must show up nowhere, whatever succeeds or fails."""

import json
import socket
import uuid

import pytest
from sqlalchemy.engine import make_url

# What the UI can show of resources, configuration, runs and their logs.
RESOURCES = """
query($location: String!, $repository: String!) {
  instance { info }
  allTopLevelResourceDetailsOrError(
    repositorySelector: {repositoryLocationName: $location, repositoryName: $repository}
  ) { __typename ... on ResourceDetailsList { results {
    name description resourceType
    configFields { name description defaultValueAsJson }
    configuredValues { key value type }
    nestedResources { name resource { configuredValues { key value type } } }
  } } }
  runConfigSchemaOrError(selector: {
    repositoryLocationName: $location, repositoryName: $repository, pipelineName: "analyse"
  }) { __typename ... on RunConfigSchema {
    rootDefaultYaml
    allConfigTypes { key ... on CompositeConfigType { fields { name description defaultValueAsJson } } }
  } }
}
"""
RUNS = "{ runsOrError { ... on Runs { results { runId status runConfigYaml tags { key value } } } } }"
LOG = """
fragment failure on PythonError { message stack causes { message stack } }
query($run: ID!) {
  logsForRun(runId: $run, limit: 1000) { __typename ... on EventConnection { events {
    __typename
    ... on MessageEvent { message }
    ... on ExecutionStepFailureEvent { error { ...failure } }
    ... on RunFailureEvent { error { ...failure } }
    ... on MaterializationEvent { metadataEntries { label ... on TextMetadataEntry { text } } }
  } } }
}
"""


@pytest.fixture
def canaries():
    return {name: f"canary-{name}-{uuid.uuid4().hex}" for name in ("database", "mistyped", "store")}


@pytest.fixture
def installation(install, mariadb, mariadb_url, s3_server, s3_bucket, canaries):
    """On MariaDB and S3; its password and its secret key are canaries."""
    user = f"u{uuid.uuid4().hex[:8]}"
    mariadb.execute(
        f"CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY '{canaries['database']}'",
        f"GRANT ALL ON *.* TO '{user}'@'127.0.0.1'",
    )
    url = make_url(mariadb_url).set(username=user, password=canaries["database"])
    installation = install(url.render_as_string(hide_password=False))
    installation.environment.update(
        IMGPIPE_STORE_URL=f"s3://{s3_bucket}/pictures",
        IMGPIPE_S3_ENDPOINT_URL=s3_server.endpoint_url,
        IMGPIPE_S3_REGION="us-east-1",
        IMGPIPE_MAX_ATTEMPTS="1",
        IMGPIPE_LOG_LEVEL="DEBUG",
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY=canaries["store"],
    )
    yield installation
    mariadb.execute(f"DROP USER '{user}'@'127.0.0.1'")


def with_url(installation, **parts):
    url = make_url(installation.environment["IMGPIPE_DATABASE_URL"]).set(**parts)
    return {"IMGPIPE_DATABASE_URL": url.render_as_string(hide_password=False)}


def test_no_secret_shows_in_what_commands_print_leave_behind_or_let_the_ui_ask(
    installation, canaries, cdn, scenes, start_webserver
):
    cdn.files["a.jpg"] = scenes[0]
    installation.add(cdn.url("a.jpg"), None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens here, and nobody will
        nowhere = with_url(installation, port=taken.getsockname()[1])
        mistyped = with_url(installation, password=canaries["mistyped"])
        shown = {
            "upgrade": (installation.run("db", "upgrade"), 0),
            "doctor": (installation.run("doctor"), 0),
            "run": (installation.run("run", "--once"), 3),
            "status without a server": (installation.run("status", **nowhere), 1),
            "doctor without a server": (installation.run("doctor", **nowhere), 1),
            "run with a wrong password": (installation.run("run", "--once", **mistyped), 1),
            "retry": (installation.run("retry"), 0),
            "run without a bucket": (installation.run("run", "--once", IMGPIPE_STORE_URL="s3://no-such-bucket/"), 3),
        }
    for name, (ended, status) in shown.items():
        assert ended.returncode == status, f"{name}: {ended.stdout}{ended.stderr}"
    assert "Access denied" in shown["run with a wrong password"][0].stderr
    assert "does not exist: create it" in shown["run without a bucket"][0].stderr
    texts = {name: ended.stdout + ended.stderr for name, (ended, _) in shown.items()}

    server = start_webserver(installation)
    texts["resources"] = server.ask(RESOURCES, location="imgpipe_dagster.definitions", repository="__repository__")
    texts["runs"] = server.ask(RUNS)
    for run in json.loads(texts["runs"])["data"]["runsOrError"]["results"]:
        texts[f"log of {run['runId']}: {run['status']}"] = server.ask(LOG, run=run["runId"])
    server.stop()

    files = [path for path in installation.home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)  # Dagster's own storage is among them
    for canary in canaries.values():
        assert [name for name, text in texts.items() if canary in text] == []
        assert [path for path in files if canary.encode() in path.read_bytes()] == []

    # The questions were real ones.
    assert '"ENV_VAR"' in texts["resources"]
    assert '"rootDefaultYaml"' in texts["resources"]
    assert sorted(name.split()[-1] for name in texts if name.startswith("log")) == ["FAILURE", "SUCCESS"]
    assert "no-such-bucket" in "".join(text for name, text in texts.items() if name.endswith("FAILURE"))
