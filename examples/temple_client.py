"""A client of the temples' service, for the standard library alone: save labelled pictures, make a model, predict.

python examples/temple_client.py save pictures/train lakeside train      a folder with a folder for each category
python examples/temple_client.py save pictures/test lakeside test
python examples/temple_client.py train lakeside [--force]
python examples/temple_client.py predict lakeside today.jpg another.png

The server is http://127.0.0.1:8000, or --server URL; a key, where it wants one, is in IMGPIPE_API_KEY.
"""

import argparse
import base64
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PATIENCE_S = 3600
"""A training takes its time."""


def post(server: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Send JSON; the status and the JSON that came back."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("IMGPIPE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{server}{path}", json.dumps(body).encode(), headers)  # noqa: S310 - the user's own
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - the user's own
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def encoded(path: Path) -> str:
    """A file in base64."""
    return base64.b64encode(path.read_bytes()).decode()


def save(server: str, folder: Path, temple: str, split: str) -> bool:
    """Send every picture of a folder of folders; the inner folders' names are the categories."""
    refused = 0
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    for path in files:
        body = {
            "temple_id": temple,
            "train_test": split,
            "category": path.parent.name,
            "image": encoded(path),
            "image_type": path.suffix.lstrip("."),
            "image_name": path.name,
        }
        status, answer = post(server, "/api/save_data", body)
        if status != 200:
            refused += 1
            print(f"{path}: {status} {answer.get('error_msg')}", file=sys.stderr)
    print(f"{len(files) - refused} of {len(files)} pictures saved.")
    return bool(files) and not refused


def train(server: str, temple: str, forceful: bool) -> bool:
    """Make a model, and wait for it."""
    status, answer = post(server, "/api/make_model", {"temple_id": temple, "forceful": forceful})
    print(json.dumps(answer, indent=1))
    return status == 200


def predict(server: str, temple: str, files: list[Path]) -> bool:
    """Ask for the category of pictures, all in one request."""
    body = {
        "temple_id": temple,
        "image": [encoded(path) for path in files],
        "image_name": [path.name for path in files],
        "image_type": files[0].suffix.lstrip("."),
    }
    status, answer = post(server, "/api/predict", body)
    found = zip(files, answer.get("image_class") or [], answer.get("class_confidence") or [], strict=False)
    for path, category, confidence in found:
        print(f"{path}: {category} ({confidence})")
    for message in answer.get("error_msg", []):
        print(message, file=sys.stderr)
    return status == 200


def main() -> int:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    commands = parser.add_subparsers(dest="command", required=True)
    saving = commands.add_parser("save")
    saving.add_argument("folder", type=Path)
    saving.add_argument("temple")
    saving.add_argument("split", choices=["train", "test"])
    training = commands.add_parser("train")
    training.add_argument("temple")
    training.add_argument("--force", action="store_true")
    predicting = commands.add_parser("predict")
    predicting.add_argument("temple")
    predicting.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    try:
        match given.command:
            case "save":
                done = save(given.server, given.folder, given.temple, given.split)
            case "train":
                done = train(given.server, given.temple, given.force)
            case _:
                done = predict(given.server, given.temple, given.files)
    except OSError as error:  # a file that is not there, a server that does not answer
        print(error, file=sys.stderr)
        return 1
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
