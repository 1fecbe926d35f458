"""The obvious service that `api.py` compares with: ``python _flask_app.py WEIGHTS PORT``. A prediction per request."""

import sys

import numpy as np
from flask import Flask, request
from PIL import Image

app = Flask(__name__)


@app.post("/classify")
def classify() -> tuple[dict, int]:
    image = Image.open(request.files["file"].stream).convert("RGB")
    pixels = np.asarray(image)[..., ::-1]
    found = app.config["model"].predict(pixels, device="cpu", verbose=False)[0].probs
    return {"bottle_status": found_name(found), "confidence": float(found.top1conf)}, 200


def found_name(found) -> str:
    return app.config["model"].names[int(found.top1)]


if __name__ == "__main__":
    from ultralytics import YOLO

    app.config["model"] = YOLO(sys.argv[1])
    app.config["model"].predict(np.zeros((640, 640, 3), np.uint8), device="cpu", verbose=False)
    app.run(host="127.0.0.1", port=int(sys.argv[2]), threaded=True)
