"""The bottle status service over HTTP, as `imgpipe serve` runs it: its answers, its refusals, its log."""

import re
import shutil
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import cv2
import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue.api_keys import create_key
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.request_log import NewRequest, forget_addresses, list_requests, note_requests
from imgpipe_dagster.catalogue.tables import ClassifyRequest, RequestClassification
from imgpipe_dagster.demo.render import render_scene

COLOURS = {"opened": (30, 30, 220), "closed": (30, 200, 30), "background": (220, 30, 30)}


def picture(status="opened", *, extension=".jpg", seed=0):
    image = np.full((96, 128, 3), COLOURS[status], np.uint8)
    image[:4, :4] = np.random.default_rng(seed).integers(0, 255, (4, 4, 3))
    return cv2.imencode(extension, image)[1].tobytes()


@pytest.fixture(scope="module")
def served(tmp_path_factory, empty_catalogue, exported_models, weights, start_server):
    home = tmp_path_factory.mktemp("classify")
    shutil.copy(empty_catalogue, home / "catalogue.db")
    (home / "models").symlink_to(exported_models)
    server = start_server(
        home,
        IMGPIPE_API_WARM="true",
        IMGPIPE_BOTTLE_WEIGHTS=str(weights),
        IMGPIPE_BOTTLE_CROP_CLASSES='["can", "bottle", "carton"]',
        IMGPIPE_API_RATE_LIMIT="off",
        IMGPIPE_API_QUEUE_LIMIT="20",
        IMGPIPE_API_KEEP_UPLOADS="true",
        IMGPIPE_API_MAX_UPLOAD_BYTES="200000",
        IMGPIPE_MAX_PIXELS="1000000",
    )
    yield server
    server.close()


@pytest.fixture(scope="module")
def api(served):
    with httpx.Client(base_url=served.url, timeout=60) as client:
        deadline = time.monotonic() + 90
        while (answer := client.get("/readyz")).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.1)
        yield client


@pytest.fixture(scope="module")
def engine(served):
    engine = connect(make_url(f"sqlite:///{served.log.parent}/catalogue.db"))
    yield engine
    engine.dispose()


def send(api, data, name="bottle.jpg", **options):
    return api.post("/classify", files={"file": (name, data)}, **options)


def test_a_picture_gets_its_status_in_exactly_the_two_fields_that_clients_know(api):
    for status in COLOURS:
        answer = send(api, picture(status))
        assert answer.status_code == 200
        assert set(answer.json()) == {"bottle_status", "confidence"}
        assert answer.json()["bottle_status"] == status
        assert 0.9 < answer.json()["confidence"] <= 1
    assert send(api, picture(extension=".png"), "a.PNG").json()["bottle_status"] == "opened"


def test_the_documented_curl_request_works_as_printed(served, tmp_path, api):
    path = tmp_path / "image.jpg"
    path.write_bytes(picture("closed"))
    command = ["curl", "-s", "-X", "POST", "-F", f"file=@{path}", f"{served.url}/classify"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert '"bottle_status":"closed"' in done.stdout


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("a.jpg", b"", 400),
        ("", picture(), 400),
        ("a.txt", picture(), 400),
        ("../../etc/passwd", picture(), 400),
        ("shell.php.png", b"<?php system($_GET['c']); ?>", 400),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 400),
        ("moves.png", b"GIF89a" + bytes(200), 400),
        ("half.jpg", picture()[:300], 400),
        ("bomb.png", cv2.imencode(".png", np.zeros((2000, 2000, 3), np.uint8))[1].tobytes(), 413),
        ("large.jpg", picture() + bytes(200_000), 413),
    ],
    ids=["empty", "no-name", "extension", "passwd", "php", "svg", "gif", "truncated", "bomb", "large"],
)
def test_what_is_no_picture_is_refused_with_an_error_of_the_documented_shape(api, name, data, status):
    answer = send(api, data, name)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert api.get("/healthz").status_code == 200


def test_a_request_without_a_file_says_so(api):
    for answer in (api.post("/classify", files={"other": ("a.jpg", b"x")}), api.post("/classify", data={"file": "x"})):
        assert (answer.status_code, answer.json()) == (400, {"error": "No file provided."})
    assert api.post("/classify", json={"file": "x"}).status_code == 400
    assert api.post("/classify").json() == {"error": "No file provided."}


def test_a_body_of_a_gigabyte_and_a_form_of_ten_thousand_parts_are_refused_early(served, api):
    head = (
        "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {2**30}\r\n\r\n"
    )
    with served.connect() as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    parts = [(f"field{n}", (None, "x")) for n in range(10_000)]
    answer = api.post("/classify", files=parts)
    assert answer.status_code in (400, 413)
    assert set(answer.json()) == {"error"}


def test_objects_come_with_their_boxes_and_a_status_each_where_they_are_asked_for(api):
    scene = cv2.imencode(".jpg", render_scene(1, 640, 480).image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    answer = send(api, scene, params={"objects": "true"}).json()
    assert (answer["width"], answer["height"]) == (640, 480)
    assert answer["objects"]
    for found in answer["objects"]:
        assert 0 <= found["box"]["x1"] < found["box"]["x2"] <= 640
    assert any(found.get("bottle_status") in COLOURS for found in answer["objects"])


def test_identical_bytes_are_answered_from_what_is_known(api):
    def hits():
        found = re.search(r'imgpipe_answer_cache_total\{known="yes"\} (\S+)', api.get("/metrics").text)
        return float(found[1]) if found else 0

    data = picture("closed", seed=77)
    before = hits()
    answers = [send(api, data).json() for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert hits() == before + 2
    assert 'imgpipe_model_info{model="bottle classifier",version="colours-' in api.get("/metrics").text


def test_many_at_once_are_all_answered_rightly_or_refused_at_once(served, api, engine):
    jobs = [(status, picture(status, seed=n)) for n in range(40) for status in COLOURS]

    def ask(job):
        started = time.monotonic()
        answer = httpx.post(f"{served.url}/classify", files={"file": ("a.jpg", job[1])}, timeout=60)
        return job[0], answer, time.monotonic() - started

    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(ask, jobs))
    good = [(status, answer) for status, answer, _ in answers if answer.status_code == 200]
    refused = [answer for _, answer, _ in answers if answer.status_code != 200]
    assert good
    assert all(answer.json()["bottle_status"] == status for status, answer in good)
    assert {answer.status_code for answer in refused} <= {503}
    assert all(int(answer.headers["Retry-After"]) >= 1 and set(answer.json()) == {"error"} for answer in refused)
    ids = {answer.headers["X-Request-ID"] for answer in refused}
    assert send(api, picture(), headers={"X-Request-ID": "after-them"}).status_code == 200
    assert logged_statuses(engine, {"after-them"}) == {"after-them": 200}
    assert not ids & set(noted_statuses(engine)), "an overload would fill the catalogue"


def test_every_request_is_logged_and_pictures_are_found_by_id_and_by_date(api, engine):
    data = picture("background", seed=5)
    send(api, data)
    rows = []
    deadline = time.monotonic() + 20
    while not rows and time.monotonic() < deadline:
        page = api.get("/api/v1/requests", params={"limit": 500, "since": "2020-01-01T00:00:00Z"}).json()
        rows = [row for row in page["requests"] if row["image"] and api.get(row["image"]).content == data]
    (row,) = rows
    assert (row["class_name"], row["metrics"]["status"], row["metrics"]["bytes"]) == ("background", 200, len(data))
    assert row["model_version"].startswith("colours-")
    assert api.get(f"/api/v1/requests/{row['image_id']}").json() == row
    assert api.get(f"/api/v1/requests/{uuid.uuid4()}").status_code == 404
    assert api.get("/api/v1/requests/x").status_code == 422
    assert api.get("/api/v1/requests", params={"until": "2020-01-01T00:00:00Z"}).json()["requests"] == []
    seen, cursor = [], None
    while True:
        params = {"limit": 7, **({"cursor": cursor} if cursor else {})}
        page = api.get("/api/v1/requests", params=params).json()
        seen += [item["request_id"] for item in page["requests"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert len(seen) == len(set(seen)) > 7
    with engine.connect() as connection:
        address = sa.select(ClassifyRequest.ip_address).where(ClassifyRequest.request_id == row["request_id"])
        assert connection.scalar(address) == "127.0.0.1"


def logged_statuses(engine, ids):
    """What the log of requests says became of these, once it knows them all."""
    deadline = time.monotonic() + 20
    while not ids <= set(found := noted_statuses(engine)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return {name: found.get(name) for name in ids}


def noted_statuses(engine):
    with engine.connect() as connection:
        rows = connection.execute(sa.select(ClassifyRequest.metrics, ClassifyRequest.ip_address)).all()
    return {metrics["http_request_id"]: metrics["status"] for metrics, address in rows if address == "127.0.0.1"}


def test_requests_that_are_refused_before_any_model_is_asked_are_logged_too(served, api, engine):
    def named(name):
        return {"X-Request-ID": name}

    assert api.post("/classify", headers=named("no-file")).status_code == 400
    assert send(api, picture(), "a.txt", headers=named("extension")).status_code == 400
    assert send(api, picture()[:300], headers=named("truncated")).status_code == 400
    assert send(api, picture(), params={"objects": "what"}, headers=named("parameter")).status_code == 422
    assert send(api, bytes(2 * 10**6), headers=named("too-long")).status_code == 413
    expected = {"no-file": 400, "extension": 400, "truncated": 400, "parameter": 422, "too-long": 413}
    assert logged_statuses(engine, set(expected)) == expected


def test_the_upload_page_loads_nothing_from_elsewhere_and_says_what_it_may_do(api):
    answer = api.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)


def test_a_key_is_asked_for_once_there_is_one_and_open_networks_do_without(serve, home, weights):
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    key = create_key(engine, "one", ["read"])
    server = serve(IMGPIPE_BOTTLE_WEIGHTS=str(weights), IMGPIPE_API_RATE_LIMIT="2/minute")
    url = f"{server.url}/classify"
    files = {"file": ("a.jpg", picture())}
    refused = httpx.post(url, files=files, headers={"X-Request-ID": "stranger"})
    assert (refused.status_code, set(refused.json())) == (401, {"error"})
    headers = {"Authorization": f"Bearer {key}"}
    answers = [
        httpx.post(url, files=files, headers={**headers, "X-Request-ID": name}, timeout=60)
        for name in ("first", "second", "third")
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json() == {"error": "Rate limit exceeded."}
    assert "Retry-After" in answers[2].headers
    server.process.terminate()  # what is to be noted still is
    server.process.wait(60)
    # Of strangers nothing is kept, and nothing of those who come too often: both could fill the catalogue.
    assert noted_statuses(engine) == {"first": 200, "second": 200}
    engine.dispose()
    server = serve(IMGPIPE_BOTTLE_WEIGHTS="/nothing.onnx", IMGPIPE_API_OPEN_NETWORKS='["127.0.0.0/8"]')
    broken = httpx.post(f"{server.url}/classify", files=files, timeout=60)
    assert (broken.status_code, broken.json()) == (500, {"error": "Model inference error."})


def test_addresses_are_forgotten_after_their_time_and_requests_stay(empty_engine):
    made = [
        NewRequest(str(uuid.uuid4()), None, "m", f"10.0.0.{n}", {"n": n}, None, ("opened", 0.5) if n else None)
        for n in range(3)
    ]
    note_requests(empty_engine, made)
    with empty_engine.begin() as connection:
        old = sa.update(ClassifyRequest).where(ClassifyRequest.request_id == made[0].request_id)
        connection.execute(old.values(timestamp=sa.text("'2020-01-01 00:00:00.000000'")))
    assert forget_addresses(empty_engine, after_days=30) == 1
    assert forget_addresses(empty_engine, after_days=30) == 0
    with empty_engine.connect() as connection:
        addresses = dict(connection.execute(sa.select(ClassifyRequest.request_id, ClassifyRequest.ip_address)).all())
        assert connection.scalar(sa.select(sa.func.count()).select_from(RequestClassification)) == 2
    assert addresses[made[0].request_id] is None
    assert addresses[made[1].request_id] == "10.0.0.1"
    listed = list_requests(empty_engine, since=None, until=None, after=None, at_most=9)
    assert (len(listed), listed[0].request_id) == (3, made[0].request_id)
