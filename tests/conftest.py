import base64
import datetime as dt
import fcntl
import io
import json
import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import sqlalchemy as sa
from joserfc import jwt
from joserfc.jwk import RSAKey
from PIL import Image
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.tables import (
    Classification,
    Detection,
    EnhancedImage,
    ImageBatch,
    ImageMetric,
    ImagePrediction,
    MetadataReport,
    ProductImage,
    PublishedEnhancement,
    RawImage,
    Sku,
    TempleChampion,
    TempleImage,
    TempleModelVersion,
    ValidatedImage,
)
from imgpipe_dagster.models.temple_cnn import TrainingOptions
from imgpipe_dagster.models.temple_input import InputFormat, LabelledPictures
from imgpipe_dagster.models.temple_training import TrainedTemple, train_temple
from imgpipe_dagster.store.base import ImageStore

HOSTILE = '<img src=x onerror="alert(1)"> ![x](https://evil.example/x.png) [a](javascript:alert(1)) $x$ :red[a]'
NATIVE = {"torch", "tensorflow", "openvino"}


# The hundreds of processes that tests start would each compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that load large native libraries last: what those do to their process then meets no other test."""
    items.sort(key=lambda item: item.get_closest_marker("native") is not None)


@pytest.fixture(autouse=True)
def _native_libraries_stay_in_native_tests(request: pytest.FixtureRequest):
    before = NATIVE & sys.modules.keys()
    yield
    loaded = (NATIVE & sys.modules.keys()) - before
    if loaded and request.node.get_closest_marker("native") is None:
        pytest.fail(f"{', '.join(loaded)} were loaded: put `pytestmark = pytest.mark.native` into {request.path}")


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A BGR picture of 96 by 64 with gradients and texture, so that damage shows."""
    y, x = np.mgrid[:64, :96]
    waves = np.dstack([x * 2.5, y * 3.5, 128 + 90 * np.sin(x / 7) * np.cos(y / 5)])
    return (waves + np.random.default_rng(7).normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Make a file of a BGR array or a Pillow image: ``encode(picture, "JPEG", mode="L", quality=80)``."""

    def make(picture: np.ndarray | Image.Image, name: str, *, mode: str | None = None, **options: object) -> bytes:
        image = (
            picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))
        )
        file = io.BytesIO()
        (image.convert(mode) if mode else image).save(file, name, **options)
        return file.getvalue()

    return make


TEMPLE_FORMAT = InputFormat(32, 40)


def temple_picture(category: str, seed: int, width: int = 80, height: int = 64) -> np.ndarray:
    """A wall with a window on the left, or on the right, or none, under changing light; uint8 BGR."""
    random = np.random.default_rng([seed, len(category)])
    picture = np.full((height, width, 3), 90, np.float32)
    cv2.rectangle(picture, (0, height * 3 // 4), (width, height), (60, 70, 80), -1)
    left = {"left": 0.08, "right": 0.6}.get(category)
    if left is not None:
        corner = int((left + random.uniform(-0.02, 0.02)) * width), int(height * 0.2)
        cv2.rectangle(picture, corner, (corner[0] + width // 3, height * 3 // 5), (200, 210, 190), -1)
    picture = picture * random.uniform(0.7, 1.2) + random.normal(0, 4, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def temple_pictures(categories: list[str], each: int, first_seed: int = 0) -> LabelledPictures:
    """Pictures in ``TEMPLE_FORMAT``, so many of each category."""
    labels = [category for category in categories for _ in range(each)]
    size = TEMPLE_FORMAT.width, TEMPLE_FORMAT.height
    pictures = [temple_picture(category, first_seed + number, *size) for number, category in enumerate(labels)]
    return LabelledPictures(tuple(range(len(labels))), tuple(labels), np.stack(pictures))


@pytest.fixture(scope="session")
def draw_temple() -> Callable[..., np.ndarray]:
    """Draw a picture of ``left``, ``right`` or anything else: ``draw_temple("left", seed)``."""
    return temple_picture


@pytest.fixture(scope="session")
def trained_temple() -> TrainedTemple:
    """One model for all tests that need one: it knows ``left`` from ``right``."""
    train = temple_pictures(["left", "right"], 24)
    test = temple_pictures(["left", "right", "none"], 10, first_seed=1000)
    return train_temple(train, test, TEMPLE_FORMAT, options=TrainingOptions(epochs=40))


@pytest.fixture
def legacy_architecture() -> dict:
    """A network's description as Keras 2.3 wrote it, shortened by what is not read."""
    return {
        "class_name": "Sequential",
        "config": {
            "name": "sequential_1",
            "layers": [
                {
                    "class_name": "Conv2D",
                    "config": {
                        "name": "conv2d_1",
                        "trainable": True,
                        "batch_input_shape": [None, 54, 96, 3],
                        "dtype": "float32",
                        "filters": 20,
                        "kernel_size": [5, 5],
                        "strides": [1, 1],
                        "padding": "same",
                        "data_format": "channels_last",
                        "dilation_rate": [1, 1],
                        "activation": "linear",
                        "use_bias": True,
                        "kernel_initializer": {"class_name": "VarianceScaling", "config": {"scale": 1.0}},
                    },
                },
                {"class_name": "Activation", "config": {"name": "activation_1", "activation": "relu"}},
                {
                    "class_name": "MaxPooling2D",
                    "config": {
                        "pool_size": [2, 2],
                        "padding": "valid",
                        "strides": [2, 2],
                        "data_format": "channels_last",
                    },
                },
                {"class_name": "Dropout", "config": {"rate": 0.5, "noise_shape": None, "seed": None}},
                {"class_name": "Flatten", "config": {"data_format": "channels_last"}},
                {"class_name": "Dense", "config": {"units": 2, "activation": "softmax", "use_bias": True}},
            ],
        },
        "keras_version": "2.3.1",
        "backend": "tensorflow",
    }


@pytest.fixture(scope="session")
def exported_models(tmp_path_factory) -> Path:
    """The demo weights, exported and compiled once for all installations, whichever test process has them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"
    folder.mkdir(exist_ok=True)
    export = (
        "import sys; from pathlib import Path; from imgpipe_dagster.settings import DEMO_WEIGHTS\n"
        "from imgpipe_dagster.models.detector import DetectorOptions, load_detector\n"
        "load_detector(str(DEMO_WEIGHTS), DetectorOptions(), cache_dir=Path(sys.argv[1])).close()"
    )
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([sys.executable, "-c", export, str(folder)], check=True, capture_output=True, timeout=280)
    return folder


@pytest.fixture(scope="session")
def hostile() -> str:
    """Text that a careless page would take for HTML, Markdown, or a formula."""
    return HOSTILE


@pytest.fixture(scope="session")
def fill_catalogue() -> Callable[..., None]:
    """Fill an empty catalogue and a store with what the dashboard shows: ``fill_catalogue(engine, store, draw)``."""
    return _fill_catalogue


def _fill_catalogue(engine: Engine, store: ImageStore, draw: Callable[[str, int], np.ndarray]) -> None:
    """Thirty images with two boxes each; of the first, all names are hostile, and the file of the second is gone.

    The last ten were enhanced and wait for a review, the most urgent one last. A temple has a model that gets a picture
    wrong.

    Args:
        engine: An empty catalogue.
        store: Where their files go.
        draw: Makes the pictures: ``draw(kind, number)``, of kind ``original``, ``enhanced``, ``left`` and ``right``.
    """

    def jpeg(kind: str, number: int) -> bytes:
        return cv2.imencode(".jpg", draw(kind, number))[1].tobytes()

    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    number = {"class_id": 0, "x1": 1, "y1": 2, "x2": 30, "y2": 40, "model_version": "m"}
    with engine.begin() as connection:
        connection.execute(sa.insert(ImageBatch), [{"batch_key": "b", "image_count": 30, "state": "analysed"}])
        for n in range(1, 31):
            key = f"images/{n}.jpg"
            if n != 2:
                store.put(key, jpeg("original", n))
                store.put(f"metadata/{n}.json", b'{"name": "<b>"}')
            name = HOSTILE if n == 1 else f"SKU-{n}"
            of_batch = {"image_id": n, "batch_key": "b"}
            rows = {
                ProductImage: {
                    "id": n,
                    "batch_key": "b",
                    "status": "completed",
                    "sku_id": name[:100],
                    "temple_id": name[:100],
                    "image_url": name,
                },
                RawImage: {**of_batch, "object_key": key, "fetch_attempts": 1, "fetch_seconds": 0.1, "byte_size": 9},
                ValidatedImage: {**of_batch, "object_key": key, "image_format": "jpeg", "width": 96, "height": 64},
                ImagePrediction: {
                    **of_batch,
                    "status": "predicted",
                    "object_count": 2,
                    "top_class": name[:100],
                    "top_confidence": 0.9,
                    "created_at": now,
                },
                MetadataReport: {**of_batch, "object_key": f"metadata/{n}.json", "sha256": "0" * 64, "byte_size": 2},
            }
            for table, row in rows.items():
                connection.execute(sa.insert(table).values(row))
            for box, (class_name, confidence) in enumerate([(name[:100], 0.9), ("can", 0.4)]):
                own = {"detection_id": f"b:{n}:{box}", "class_name": class_name, "confidence": confidence}
                connection.execute(sa.insert(Detection).values({**number, **of_batch, **own, "class_id": box}))
            called = {**of_batch, "classifier": "bottle_status", "class_name": "opened", "confidence_score": 0.8}
            for of, detection_id in (("picture", None), ("can", f"b:{n}:1")):
                one = {"classification_id": f"b:{n}:{of}", "detection_id": detection_id}
                connection.execute(sa.insert(Classification).values({**called, **one}))
            if n > 20:
                _enhance(connection, store, n, jpeg("enhanced", n))
        _make_temple(connection, store, jpeg)


def _make_temple(connection: Connection, store: ImageStore, jpeg: Callable[[str, int], bytes]) -> None:
    """A temple with a model, a test picture that it gets wrong, and pictures for training."""
    of_training = [(number, "train", "right" if number == 15 else "left") for number in range(2, 16)]
    file = {"byte_size": 9, "origin": "import"}
    for number, split, category in [(1, "test", "left"), *of_training]:
        key = f"training/lakeside/{split}/{category}/{number}.jpg"
        store.put(key, jpeg(category, number))
        picture = {"id": number, "temple_id": "lakeside", "split": split, "category": category, "object_key": key}
        connection.execute(sa.insert(TempleImage).values({**picture, "sha256": f"{number:064}", **file}))
    mistake = {"id": 1, "category": "left", "image_class": "right", "class_confidence": 0.91}
    metrics = {"accuracy": 0.9, "confusion": [[3, 1, 0], [0, 4, 0]], "mistakes": [mistake]}
    metrics["curve"] = {"accuracy": [0.5, 0.9], "val_accuracy": [0.4, 0.8]}
    version = {"temple_id": "lakeside", "version": "v1", "number": 1, "origin": "trained", "files": {}}
    counts = {"input_height": 32, "input_width": 40, "train_images": 8, "test_images": 8, "trained_seconds": 1}
    told = {"labels": ["left", "right"], "metrics": metrics, "verdict": "the first model"}
    connection.execute(sa.insert(TempleModelVersion).values({**version, **counts, **told}))
    crown = {"temple_id": "lakeside", "version": "v1", "promoted_by": "ann", "why": "the first model"}
    connection.execute(sa.insert(TempleChampion).values(crown))


def _enhance(connection: Connection, store: ImageStore, n: int, jpeg: bytes) -> None:
    """An enhanced picture that waits for its review."""
    of_batch, sha256 = {"image_id": n, "batch_key": "b"}, f"{n:064}"
    store.put(f"enhanced/{n}/a.jpg", jpeg)
    waits = {"qc_status": "needs_review", "qc_priority": n / 100, "enhanced_sha256": sha256}
    connection.execute(sa.update(ProductImage).where(ProductImage.id == n).values(waits))
    made = {"object_key": f"enhanced/{n}/a.jpg", "sha256": sha256, "width": 96, "height": 64, "image_format": "jpg"}
    rules = {"profile": "amazon_main", "failed_rules": [{"rule": "min_fill", "value": 0.2}]}
    steps = [{"step": "light", "why": "exposure 0.14"}]
    own = {"mode": "auto", "model_version": "m", "steps": steps, "review_reasons": ["low_score"]}
    connection.execute(sa.insert(EnhancedImage).values({**of_batch, **made, **rules, **own}))
    verdict = {"qc_status": "needs_review", "qc_priority": 1, "audited": False, "review_reasons": ["low_score"]}
    connection.execute(sa.insert(PublishedEnhancement).values({**of_batch, **verdict}))
    for phase, score in (("before", 40), ("after", 70)):
        size = {"width": 96, "height": 64, "byte_size": 9, "components": {"sharpness": 0.5}, "issues": ["dark"]}
        connection.execute(sa.insert(ImageMetric).values({**of_batch, "phase": phase, "score": score, **size}))
    connection.execute(sa.insert(Sku).values({"sku_id": f"SKU-{n}", "value": 9}))


class Issuer(ThreadingHTTPServer):
    """An OpenID Connect issuer: discovery, keys, and logins of whoever ``person`` says, without a question."""

    daemon_threads = True
    audience, secret = "imgpipe-client", "the client's secret"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), IssuerHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.keys = [RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})]
        self.asked = 0
        self.person: dict[str, Any] = {}
        self.logins: dict[str, str] = {}  # the nonce of each code that was not used yet

    def token(self, key=None, header=None, algorithm="RS256", **claims):
        now = int(time.time())
        body = {"iss": self.url, "aud": self.audience, "sub": "subject-1", "exp": now + 300, "iat": now, **claims}
        key = key or self.keys[0]
        head = {"alg": algorithm, "kid": key.kid, **(header or {})}
        return jwt.encode(head, {k: v for k, v in body.items() if v is not None}, key, algorithms=[algorithm])

    def log_in(self, wanted: dict[str, str]) -> str:
        """Where the browser goes on to after a login."""
        code = secrets.token_hex(8)
        self.logins[code] = wanted["nonce"]
        answer = urllib.parse.urlencode({"code": code, "state": wanted["state"]})
        return f"{wanted['redirect_uri']}?{answer}"

    def exchange(self, wanted: dict[str, str], authorization: str) -> dict[str, object] | None:
        """The tokens for a code, to the client that can name its secret."""
        client = ":".join(map(urllib.parse.quote_plus, (self.audience, self.secret)))
        known = {client, f"{self.audience}:{self.secret}"}
        said = base64.b64decode(authorization.removeprefix("Basic ") or "").decode()
        nonce = self.logins.pop(wanted.get("code", ""), None)
        if said not in known or nonce is None:
            return None
        return {
            "access_token": "unused",
            "token_type": "Bearer",
            "expires_in": 300,
            "id_token": self.token(nonce=nonce, **self.person),
        }


class IssuerHandler(BaseHTTPRequestHandler):
    server: Issuer  # pyright: ignore[reportIncompatibleVariableOverride] - always this one

    def do_GET(self):
        self.server.asked += 1
        path, _, query = self.path.partition("?")
        if path == "/authorize":
            self.send_response(302)
            self.send_header("Location", self.server.log_in(dict(urllib.parse.parse_qsl(query))))
            self.end_headers()
            return
        url = self.server.url
        documents = {
            "/.well-known/openid-configuration": {
                "issuer": url,
                "jwks_uri": f"{url}/keys",
                "authorization_endpoint": f"{url}/authorize",
                "token_endpoint": f"{url}/token",
                "id_token_signing_alg_values_supported": ["RS256"],
            },
            "/keys": {"keys": [key.as_dict(private=False) for key in self.server.keys]},
        }
        self._answer(200, documents[path])

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        wanted = dict(urllib.parse.parse_qsl(body))
        tokens = self.server.exchange(wanted, self.headers.get("Authorization", ""))
        self._answer(200 if tokens else 401, tokens or {"error": "invalid_client"})

    def _answer(self, status, document):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, format, *arguments):
        """Silence."""


@pytest.fixture
def issuer():
    with Issuer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
