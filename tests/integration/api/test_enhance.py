"""Enhancing one picture over HTTP: the documented requests, what comes back, and what is refused."""

import hashlib
import json
import logging
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import cv2
import httpx
import numpy as np
import pytest

from imgpipe_dagster.demo.products import render_product
from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.formats import sniff

PROBLEM = "application/problem+json"


def photo(size=200, shade=90):
    """A box on a light table, dark and a little noisy."""
    image = np.full((size, size, 3), 200, np.uint8)
    cv2.rectangle(image, (size // 4, size // 4), (3 * size // 4, 3 * size // 4), (40, shade, 160), -1)
    noise = np.random.default_rng(0).integers(-12, 12, image.shape)
    return cv2.imencode(".jpg", np.clip(image + noise, 0, 255).astype(np.uint8))[1].tobytes()


@pytest.fixture
def api(make_api):
    return make_api(target_min_dimension=256, fetch_allow_networks=["127.0.0.9/32"], max_pixels=1_000_000)


def test_an_uploaded_picture_comes_back_described_and_can_be_fetched(api):
    form = {"mode": "full", "remove_background": "true", "target_size_kb": "100"}
    answer = api.post("/api/v1/enhance/upload", files={"file": ("product.jpg", photo())}, data=form)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert made["mode"] == "full"
    assert {step["step"] for step in made["steps"]} >= {"denoise", "sharpen", "upscale"}
    assert made["qc_status"] in ("auto_approved", "needs_review")
    assert made["byte_size"] <= 100 * 1024
    assert 0 <= made["before"]["score"] <= 100
    assert set(made["before"]["components"]) == set(made["after"]["components"])
    fetched = api.get(made["enhanced_image_url"])
    assert hashlib.sha256(fetched.content).hexdigest() == made["sha256"]
    assert decode_bgr(fetched.content).shape == (
        made["height"],
        made["width"],
        3,
    )
    assert api.get(made["enhanced_image_url"], headers={"If-None-Match": fetched.headers["ETag"]}).status_code == 304


def test_who_asks_for_a_picture_gets_the_picture(api):
    accept = {"Accept": "image/*"}
    form = {"mode": "optimize", "target_size_kb": "20"}
    answer = api.post("/api/v1/enhance/upload", files={"file": ("a.jpg", photo())}, data=form, headers=accept)
    assert answer.headers["content-type"] == "image/jpeg"
    assert len(answer.content) <= 20 * 1024
    assert float(answer.headers["X-Quality-After"]) > 0


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/png", "image/png"),
        ("image/webp;q=0.9, image/avif", "image/webp"),
        ("image/png;q=0.1, image/jpeg;q=0.5", "image/jpeg"),
        ("text/html, application/json;q=0.5", "application/json"),
        ("image/png;q=0, */*", "application/json"),
        ("application/json;q=0, */*", "image/jpeg"),
        ("image/jpeg;q=0, image/*", "image/webp"),
        ("image/png;q=much", "image/png"),
    ],
)
def test_the_answer_has_the_type_that_is_accepted_most(api, accept, kind):
    form = {"mode": "optimize"}
    answer = api.post(
        "/api/v1/enhance/upload", files={"file": ("a.jpg", photo())}, data=form, headers={"Accept": accept}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    if kind.startswith("image/"):
        assert f"image/{sniff(answer.content).value}" == kind


def test_a_png_that_is_accepted_is_not_held_to_the_usual_size_which_it_cannot_be_made_to_fit(make_api):
    api = make_api(target_kb=20)
    file = cv2.imencode(".png", render_product(11).image)[1].tobytes()
    form, headers = {"mode": "optimize"}, {"Accept": "image/png"}
    answer = api.post("/api/v1/enhance/upload", files={"file": ("a.png", file)}, data=form, headers=headers)
    assert len(answer.content) > 20 * 1024
    assert answer.headers["X-QC-Status"] == "auto_approved"


def test_an_answer_that_nobody_accepts_is_not_made(api, cdn):
    for accept in ("image/avif", "text/html", "application/json;q=0"):
        answer = api.post("/api/v1/enhance/url", json={"url": cdn.url("image.jpg")}, headers={"Accept": accept})
        assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable"), accept
    # A picture that is not there would be refused for that, had it been fetched.
    transparent = {"url": cdn.url("image.jpg"), "background_color": "transparent"}
    assert api.post("/api/v1/enhance/url", json=transparent, headers={"Accept": "image/jpeg"}).status_code == 406


def test_a_mode_of_one_step_replaces_the_background_where_it_is_asked_for_and_only_there(api):
    def steps(**form):
        answer = api.post("/api/v1/enhance/upload", files={"file": ("a.jpg", photo())}, data=form).json()
        return {step["step"] for step in answer["steps"]}, answer["background_replaced"]

    assert steps(mode="sharpen") == ({"sharpen"}, False)
    assert steps(mode="sharpen", remove_background="true") == ({"sharpen", "background"}, True)
    assert steps(mode="full", remove_background="false")[1] is False


def test_a_picture_is_fetched_from_its_url(api, cdn):
    cdn.files["image.jpg"] = photo()
    body = {"url": cdn.url("image.jpg"), "mode": "auto", "remove_background": True, "target_size_kb": 500}
    answer = api.post("/api/v1/enhance/url", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["byte_size"] <= 500 * 1024
    cdn.redirects["hop"] = "http://127.0.0.1:9/secret"
    for name, reason in (("hop", "address_not_allowed"), ("absent.jpg", "http_not_found")):
        refused = api.post("/api/v1/enhance/url", json={"url": cdn.url(name)})
        assert (refused.status_code, refused.json()["code"]) == (422, "not_fetched")
        assert reason in refused.json()["detail"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.jpg",
        "http://localhost/a.jpg",
        "http://2130706433/a.jpg",
        "http://0x7f000001/a.jpg",
        "http://0177.0.0.1/a.jpg",
        "http://127.1/a.jpg",
        "http://[::1]/a.jpg",
        "http://[::ffff:127.0.0.1]/a.jpg",
        "http://[::ffff:a9fe:a9fe]/latest/meta-data",
        "http://[64:ff9b::7f00:1]/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/a.jpg",
        "http://192.168.1.1/a.jpg",
        "http://0.0.0.0/a.jpg",
        "http://①②⑦.0.0.1/a.jpg",
        "file:///etc/passwd",
        "s3://bucket/key",
        "store:images/aa/x.jpg",
        "gopher://127.0.0.1/",
        "http://user:secret@127.0.0.1/",
        "not a url",
        "",
    ],
)
def test_nothing_but_the_public_internet_is_fetched_from(api, url):
    answer = api.post("/api/v1/enhance/url", json={"url": url})
    assert (answer.status_code, answer.json()["code"]) == (422, "not_fetched")
    assert "secret" not in answer.text


def test_which_address_a_name_has_here_is_for_the_log_only(api, monkeypatch, caplog):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.20.30.40", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    caplog.set_level(logging.INFO, "imgpipe_dagster.api.files")
    answer = api.post("/api/v1/enhance/url", json={"url": "http://internal.example/a.jpg"})
    assert (answer.status_code, answer.json()["code"]) == (422, "not_fetched")
    assert "address_not_allowed" in answer.json()["detail"]
    assert "10.20.30.40" not in answer.text
    assert "10.20.30.40" in caplog.text


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "invalid_request"),
        (b"<?php phpinfo(); ?>", 415, "unsupported_media_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_media_type"),
        (photo()[:400], 422, "undecodable_image"),
        (cv2.imencode(".png", np.zeros((1200, 1200, 3), np.uint8))[1].tobytes(), 413, "too_many_pixels"),
    ],
    ids=["empty", "php", "svg", "truncated", "bomb"],
)
def test_what_is_no_picture_is_refused_by_its_content(api, data, status, code):
    answer = api.post("/api/v1/enhance/upload", files={"file": ("../../etc/passwd.png", data)})
    assert (answer.status_code, answer.headers["content-type"], answer.json()["code"]) == (status, PROBLEM, code)


@pytest.mark.parametrize(
    "form",
    [{"mode": "magic"}, {"target_size_kb": "-1"}, {"target_size_kb": "much"}, {"background_color": "#12"},
     {"target_min_dimension": "1000000"}, {"mode": "full", "background_color": "url(x)"}],
    ids=str,
)  # fmt: skip
def test_options_that_mean_nothing_are_refused_by_name(api, form):
    answer = api.post("/api/v1/enhance/upload", files={"file": ("a.jpg", photo())}, data=form)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert api.post("/api/v1/enhance/url", json={"url": 7}).status_code == 422
    assert api.post("/api/v1/enhance/url", json=[]).status_code == 422


def test_a_request_sent_again_with_its_key_is_not_done_again(api):
    headers = {"Idempotency-Key": "once"}
    first, second = (
        api.post("/api/v1/enhance/upload", files={"file": ("a.jpg", photo())}, headers=headers) for _ in range(2)
    )
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    other = api.post("/api/v1/enhance/upload", files={"file": ("a.jpg", photo(shade=10))}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    accept = {**headers, "Accept": "image/png"}
    other = api.post("/api/v1/enhance/upload", files={"file": ("a.jpg", photo())}, headers=accept)
    assert other.status_code == 422, "another answer was asked for"


@pytest.mark.parametrize(
    ("path", "pool"), [("/api/v1/enhance/upload", "enhancing"), ("/api/predict", "predicting"), ("/classify", None)]
)
def test_where_too_many_wait_a_request_is_refused_before_its_body_is_looked_at(api, path, pool):
    services = api.app.state.services
    busy = services.inference.pool if pool is None else getattr(services, pool)
    busy.in_flight = 10_000
    answer = api.post(path, content=b"no form and no JSON either", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    busy.in_flight = 0
    assert api.post(path, content=b"no form", headers={"Content-Type": "text/plain"}).status_code in (400, 415, 422)


def test_the_documented_curl_commands_work_and_health_answers_under_load(serve, tmp_path, cdn):
    served = serve(IMGPIPE_FETCH_ALLOW_NETWORKS='["127.0.0.9/32"]', IMGPIPE_TARGET_MIN_DIMENSION="256")
    cdn.files["image.jpg"] = photo()
    (tmp_path / "product.jpg").write_bytes(photo())
    body = {"url": cdn.url("image.jpg"), "mode": "auto", "remove_background": True, "target_size_kb": 500}
    commands = [
        ["-H", "Content-Type: application/json", "-d", json.dumps(body)],
        [*("-F", "file=@product.jpg", "-F", "mode=full"), "-F", "remove_background=true"],
    ]
    for arguments, path in zip(commands, ("url", "upload"), strict=True):
        command = ["curl", "-s", "-X", "POST", f"{served.url}/api/v1/enhance/{path}", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
        assert "enhanced_image_url" in json.loads(done.stdout), done.stdout
    data = photo(400)

    def load(_):
        form = {"mode": "denoise", "remove_background": "false"}
        files = {"file": ("a.jpg", data)}
        return httpx.post(f"{served.url}/api/v1/enhance/upload", files=files, data=form, timeout=120).status_code

    with ThreadPoolExecutor(40) as pool:
        working = pool.map(load, range(40))
        for _ in range(20):
            assert httpx.get(f"{served.url}/healthz", timeout=5).status_code == 200
        statuses = list(working)
    assert set(statuses) == {200, 503}  # more than may wait are refused
