"""The API as it describes itself: complete, the same as its documents say, and never a failure whatever is sent."""

import re
import shutil

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from imgpipe_dagster.api.app import create_app
from imgpipe_dagster.api.problems import TEMPLE_PATHS
from imgpipe_dagster.api.reference import reference
from imgpipe_dagster.instance import PROJECT_DIR
from imgpipe_dagster.settings import Settings

OPERATIONS = {
    "POST /api/v1/enhance/url": "write",
    "POST /api/v1/enhance/upload": "write",
    "GET /api/v1/enhance/results/{sha256}.{extension}": "read",
    "POST /api/v1/import": "write",
    "POST /api/v1/batch": "write",
    "GET /api/v1/batch/{job_id}": "read",
    "GET /api/v1/qc/pending": "review",
    "POST /api/v1/qc/{image_id}/review": "review",
    "GET /api/v1/images": "read",
    "GET /api/v1/images/{image_id}": "read",
    "GET /api/v1/images/{image_id}/report": "read",
    "GET /api/v1/images/{image_id}/original": "read",
    "GET /api/v1/images/{image_id}/annotated": "read",
    "GET /api/v1/images/{image_id}/enhanced": "read",
    "POST /classify": "read",
    "GET /api/v1/requests": "read",
    "GET /api/v1/requests/{image_id}": "read",
    "GET /api/v1/requests/{image_id}/image": "read",
    "POST /api/save_data": "train",
    "POST /api/make_model": "train",
    "POST /api/predict": "read",
    "GET /images_script": "write",
    "POST /images_script": "write",
    "GET /healthz": None,
    "GET /readyz": None,
    "GET /metrics": "read",
}


@pytest.fixture(scope="module")
def document():
    return create_app(Settings(_env_file=None)).openapi()


def test_the_paths_and_what_they_need_are_these(document):
    found = {
        f"{method.upper()} {path}": operation.get("x-scope")
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert found == OPERATIONS


def test_every_operation_says_what_it_does_and_how_it_refuses(document):
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            assert operation["tags"], path
            assert any(status == "default" or status[0] == "4" for status in operation["responses"]), path
            for way in operation.get("security", ()):
                assert set(way) <= set(document["components"]["securitySchemes"])
    text = str(document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document["components"]["schemas"]
    assert "HTTPValidationError" not in text


def test_every_operation_tells_the_refusals_of_its_guards_in_the_shape_of_its_path(document):
    for path, operations in document["paths"].items():
        own = path == "/classify" or path in TEMPLE_PATHS
        for operation in operations.values():
            expected = {"413"}
            expected |= {"401", "403", "429", "503", "504"} if "x-scope" in operation else set()
            expected |= {"400", "408"} if "requestBody" in operation else set()
            assert expected <= set(operation["responses"]), path
            for status in expected:
                answer = operation["responses"][status]
                assert answer["description"]
                assert set(answer["content"]) == {"application/json" if own else "application/problem+json"}, path
                assert answer["content"] != {"application/json": {"schema": {}}}


def test_the_reference_page_tells_nested_types_and_a_request_for_each_operation(document):
    page = reference(document)
    for operation in OPERATIONS:
        section = page.partition(f"### `{operation}`")[2].partition("\n### ")[0]
        assert "curl " in section
        assert "Refusals: `4" in section
    for name in re.findall(r"\]\(#([a-z]+)\)", page):
        assert re.search(rf"^### {name}$", page, re.MULTILINE | re.IGNORECASE), name
    assert "### QualityScore" in page
    assert "| `image_class` * | string or list of (string or null) or null |" in page


def test_the_reference_page_is_current(document):
    current = (PROJECT_DIR / "docs" / "api.md").read_text(encoding="utf-8")
    assert current == reference(document), "run: python -m imgpipe_dagster.api.reference > docs/api.md"


def test_the_page_about_the_api_needs_nothing_from_elsewhere(make_api):
    api = make_api(source_url="https://example.com/source?a=1&b=2")
    answer = api.get("/docs")
    assert answer.status_code == 200
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert not re.search(r'(src|href)="(https?:)?//(?!example\.com/source)', answer.text)
    assert 'href="https://example.com/source?a=1&amp;b=2"' in answer.text
    assert api.get("/openapi.json").json()["info"]["license"]["identifier"] == "AGPL-3.0-or-later"


@pytest.fixture(scope="module")
def described(tmp_path_factory, empty_catalogue, weights, start_server):
    """The description of a running server, for schemathesis."""
    home = tmp_path_factory.mktemp("described")
    shutil.copy(empty_catalogue, home / "catalogue.db")
    options = {"IMGPIPE_API_RATE_LIMIT": "off", "IMGPIPE_FETCH_CONNECT_TIMEOUT_S": "1"}
    server = start_server(home, IMGPIPE_BOTTLE_WEIGHTS=str(weights), **options)
    yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    server.close()


def test_nothing_that_fits_or_breaks_the_description_makes_the_server_fail(described):
    quiet = settings(
        max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    asked = []
    for found in described.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:

            @quiet
            @given(operation.as_strategy(generation_mode=mode))
            def ask(case):
                answer = case.call(timeout=30)
                assert answer.status_code < 500, f"{case.as_curl_command()}: {answer.text}"

            try:
                ask()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE  # a path that takes nothing can be given nothing wrong
            asked.append(operation.label)
    assert set(asked) == set(OPERATIONS)
