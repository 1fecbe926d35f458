"""What stands before every path: ids, limits, deadlines, and errors in the shape that the path's clients know."""

import asyncio
import logging
import shutil
import sqlite3
import subprocess
import sys

import pytest
from fastapi import APIRouter, Request
from pydantic import BaseModel

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.api.guard import Body, GuardedRoute, access
from imgpipe_dagster.api.problems import Code
from imgpipe_dagster.api.work import WorkPool

PROBLEM = "application/problem+json"


class Named(BaseModel):
    name: str


def probes(app):
    """Paths that do what no real one should: be slow, fail, take what comes."""
    router = APIRouter(prefix="/api/v1/probe", route_class=GuardedRoute)

    @router.post("/echo")
    @access(None, body=Body.JSON)
    async def echo(named: Named) -> Named:
        return named

    @router.post("/length")
    @access(None, body=Body.JSON)
    async def length(request: Request) -> int:
        return len(await request.body())

    @router.get("/sleep")
    @access(None)
    async def sleep() -> None:
        await asyncio.sleep(30)

    @router.get("/fail")
    @access(None)
    async def fail() -> None:
        raise RuntimeError("canary: a secret of the server")

    @router.get("/timeout")
    @access(None)
    async def timeout() -> None:
        raise TimeoutError("of something else")

    app.include_router(router)


def test_a_live_process_says_so_and_a_ready_one_too(make_api):
    api = make_api()
    assert api.get("/healthz").json() == {"status": "ok"}
    assert api.get("/readyz").json() == {"status": "ok"}
    api.app.state.services.draining = True
    assert api.get("/healthz").status_code == 200
    assert api.get("/readyz").status_code == 503


def test_a_process_without_its_schema_lives_and_is_not_ready(make_api, home):
    (home / "catalogue.db").unlink()
    api = make_api()
    assert api.get("/healthz").status_code == 200
    answer = api.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "imgpipe db upgrade" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_catalogue_whose_file_goes_is_missed_and_the_one_put_in_its_place_is_used(make_api, home, empty_catalogue):
    api = make_api()

    def take_over(number):
        return api.post("/api/v1/import", json={"images": [{"image_url": f"https://a.example/{number}.jpg"}]})

    assert take_over(1).json()["imported"] == 1
    for path in home.glob("catalogue.db*"):
        path.rename(home / f"moved-{path.name}")
    assert (take_over(2).status_code, take_over(2).json()["code"]) == (503, "unavailable")
    assert api.get("/readyz").status_code == 503
    assert not (home / "catalogue.db").exists()
    shutil.copy(empty_catalogue, home / "catalogue.db")
    assert take_over(3).json()["imported"] == 1
    with sqlite3.connect(home / "catalogue.db") as found:
        assert found.execute("SELECT image_url FROM product_images").fetchall() == [("https://a.example/3.jpg",)]


def test_head_answers_as_get_does_without_the_body_where_get_only_reads(make_api):
    api = make_api()
    for path in ("/", "/docs", "/healthz", "/readyz", "/api/v1/images", "/api/v1/images/1", "/api/v1/requests"):
        read, head = api.get(path), api.head(path)
        assert (head.status_code, head.content) == (read.status_code, b"")
        assert head.headers["content-length"] == str(len(read.content))
    assert (api.head("/images_script").status_code, api.head("/classify").status_code) == (405, 405)
    assert all("head" not in operations for operations in api.get("/openapi.json").json()["paths"].values())


def test_a_path_with_a_slash_too_many_leads_to_no_other_host(make_api):
    answer = make_api().get("/docs/", headers={"Host": "evil.example"}, follow_redirects=False)
    assert (answer.status_code, "location" in answer.headers) == (404, False)


@pytest.mark.parametrize("given", ["abc-123", "0af7651916cd43dd8448eb211c80319c"])
def test_a_request_keeps_the_id_that_it_came_with(make_api, caplog, given):
    caplog.set_level(logging.INFO, "imgpipe_dagster.api.requests")
    answer = make_api().get("/nowhere", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"] == given
    assert f"id={given}" in caplog.text


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "a\tb", "<b>"])
def test_an_id_that_could_spoil_a_log_is_replaced(make_api, given):
    answer = make_api().get("/nowhere", headers={"X-Request-ID": given})
    assert len(answer.headers["X-Request-ID"]) == 32


def test_a_path_in_the_log_cannot_write_lines_of_its_own(make_api, caplog):
    caplog.set_level(logging.INFO, "imgpipe_dagster.api.requests")
    make_api().get("/x%0aINFO GET /forged 200")
    assert len(caplog.records[-1].getMessage().splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/api/v1/nothing", 404, "not_found"), ("DELETE", "/healthz", 405, "method_not_allowed")],
)
def test_a_refusal_is_problem_json_with_a_stable_code(make_api, method, path, status, code):
    answer = make_api().request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    assert set(answer.json()) == {"type", "title", "status", "detail", "code", "instance", "request_id"}
    assert (answer.json()["code"], answer.json()["status"], answer.json()["instance"]) == (code, status, path)


def test_every_code_has_a_status_and_a_meaning():
    assert all(400 <= code.status < 600 and code.meaning for code in Code)


def test_json_that_is_none_is_400_and_values_that_are_wrong_are_422_by_name(make_api):
    api = make_api(prepare=probes)
    assert api.post("/api/v1/probe/echo", json={"name": "x"}).json() == {"name": "x"}
    broken = api.post("/api/v1/probe/echo", content=b'{"name": ', headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["code"]) == (400, "malformed_request")
    wrong = api.post("/api/v1/probe/echo", json={"name": 7})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in wrong.json()["errors"]] == ["body.name"]
    text = api.post("/api/v1/probe/echo", content=b'{"name": "x"}', headers={"Content-Type": "text/plain"})
    assert (text.status_code, text.json()["code"]) == (415, "unsupported_media_type")
    deep = api.post("/api/v1/probe/echo", content=b"[" * 100_000, headers={"Content-Type": "application/json"})
    assert deep.status_code == 400


def test_a_body_that_says_that_it_is_too_long_is_not_read(make_api):
    api = make_api(prepare=probes, api_max_json_bytes=1024)
    answer = api.post("/api/v1/probe/length", content=b"x", headers={"Content-Length": str(2**30)})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_body_without_a_length_is_counted_as_it_comes(make_api):
    api = make_api(prepare=probes, api_max_json_bytes=1024)
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b"x" * 100

    json_type = {"Content-Type": "application/json"}
    answer = api.post("/api/v1/probe/length", content=endless(), headers=json_type)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert api.post("/api/v1/probe/length", content=b"x" * 1024, headers=json_type).json() == 1024


def test_a_path_without_a_body_takes_none(make_api):
    assert make_api().request("GET", "/healthz", content=b"x").status_code == 413


def test_an_answer_that_is_not_ready_in_time_is_504(make_api):
    answer = make_api(prepare=probes, api_deadline_s=0.2).get("/api/v1/probe/sleep")
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def with_a_full_pool(app):
    """`/full`, whose only thread is taken; `app.state.full` is its pool."""
    router = APIRouter(prefix="/api/v1/probe", route_class=GuardedRoute)
    app.state.full = WorkPool("full", threads=1, queue_limit=0)
    app.state.full.in_flight = 1

    @router.post("/full")
    @access(Scope.READ, body=Body.JSON, pool=lambda _: app.state.full)
    async def full() -> str:
        return await app.state.full.run(lambda: "done")

    app.include_router(router)


def test_a_request_to_a_full_server_is_admitted_once_though_room_appears_meanwhile(make_api):
    api = make_api(prepare=with_a_full_pool)
    assert api.post("/api/v1/probe/full", json={}).status_code == 503
    gate, asked = api.app.state.services.gate, []
    admit = gate.admit

    async def admit_slowly(request, *options, **named):
        asked.append(request)
        api.app.state.full.in_flight = 0
        return await admit(request, *options, **named)

    gate.admit = admit_slowly
    assert api.post("/api/v1/probe/full", json={}).json() == "done"
    assert len(asked) == 1


def test_a_full_server_has_a_deadline_too(make_api):
    api = make_api(prepare=with_a_full_pool, api_deadline_s=0.2)

    async def admit(*_, **__):
        await asyncio.sleep(30)

    api.app.state.services.gate.admit = admit
    answer = api.post("/api/v1/probe/full", json={})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_a_failure_tells_its_log_and_not_its_client(make_api, caplog):
    api = make_api(prepare=probes)
    for path in ("fail", "timeout"):
        answer = api.get(f"/api/v1/probe/{path}", headers={"X-Request-ID": "the-one"})
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "canary" not in answer.text
    assert "canary" in caplog.text
    assert "the-one" in caplog.text


def test_figures_tell_latency_errors_uptime_cpu_and_memory(make_api):
    api = make_api(prepare=probes)
    api.get("/api/v1/probe/fail")
    api.get("/healthz")
    figures = api.get("/metrics").text
    assert 'imgpipe_http_request_seconds_count{method="GET",route="/healthz",status="200"} 1.0' in figures
    assert 'route="/api/v1/probe/fail",status="500"} 1.0' in figures
    names = ("imgpipe_uptime_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes")
    assert all(f"\n{name} " in figures for name in names)


def test_a_path_without_stated_guards_is_refused_when_the_app_is_made():
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(TypeError, match="no stated guards"):

        @router.get("/forgotten")
        async def forgotten() -> None: ...


def test_the_api_runs_without_dagster_and_loads_no_heavy_library():
    heavy = ["torch", "ultralytics", "tensorflow", "keras", "openvino", "onnx", "onnxruntime", "streamlit", "boto3"]
    code = (
        "import sys; sys.modules['dagster'] = None\n"
        "import imgpipe_dagster.api.app, imgpipe_dagster.api.server\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.strip() == "[]", result.stderr
