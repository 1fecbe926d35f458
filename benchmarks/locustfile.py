"""Load with Locust, as the bottle status service was measured: ``locust -f benchmarks/locustfile.py --host URL``.

``IMGPIPE_PICTURES`` names a folder of JPEGs; ``IMGPIPE_API_KEY`` is sent where it is set. Locust is not among the
project's requirements: ``pip install locust``.
"""

import os
import random
from pathlib import Path

from locust import HttpUser, between, task

FILES = [path.read_bytes() for path in sorted(Path(os.environ["IMGPIPE_PICTURES"]).glob("*.jpg"))]
KEY = os.environ.get("IMGPIPE_API_KEY")


class Client(HttpUser):
    wait_time = between(0, 0.1)

    def on_start(self) -> None:
        if KEY:
            self.client.headers["Authorization"] = f"Bearer {KEY}"

    @task(10)
    def classify(self) -> None:
        file = random.choice(FILES)
        distinct = file[:2] + b"\xff\xfe\x00\x12%016d" % random.randrange(10**16) + file[2:]
        with self.client.post("/classify", files={"file": ("a.jpg", distinct)}, catch_response=True) as answer:
            if answer.status_code in (429, 503):
                answer.success()  # refused as it should be; the statistics of status codes show how often

    @task(1)
    def health(self) -> None:
        self.client.get("/healthz")
