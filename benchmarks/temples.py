"""Models of temples: speed of prediction and of training against bare Keras, and how good they are on rendered halls.

Prediction: 1,000 JPEGs of 960 x 540 from bytes to answers, against ``cv2.imdecode``, ``cv2.resize`` and
``model.predict`` of the same network, one picture at a time. Training: ``train_temple`` with all that it does (held-out
pictures, variation, calibration, export, test) against ``model.fit`` of the same layers over the same pictures, for as
many passes. Quality: halls with door open or closed under changing light, noise and camera shift; unknown pictures are
the same hall without its door, the other hall, and products and noise, none of which training sees.

    python benchmarks/temples.py [--images 1000] [--epochs 100] [--each 200]
"""

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np

from imgpipe_dagster.demo.halls import HALLS, Door, render_hall
from imgpipe_dagster.demo.products import Backdrop, render_product
from imgpipe_dagster.models.temple_architecture import build_architecture
from imgpipe_dagster.models.temple_cnn import TrainingOptions, compile_network, standard_architecture
from imgpipe_dagster.models.temple_input import InputFormat, LabelledPictures, fit, to_pixels
from imgpipe_dagster.models.temple_training import TrainedTemple, load_keras, train_temple

FORM = InputFormat(54, 96)
SIZE = 480, 270
KNOWN = (Door.OPEN, Door.CLOSED)
TEST_SEED, UNKNOWN_SEED = 100_000, 200_000
TRAINED_ON = 400  # pictures of the training whose time is taken


def halls(name: str, doors: tuple[Door, ...], each: int, first: int) -> list[tuple[str, np.ndarray]]:
    return [
        (str(door), fit(render_hall(HALLS[name], door, seed, *SIZE), FORM))
        for door in doors
        for seed in range(first, first + each)
    ]


def random_pictures(count: int) -> list[tuple[str, np.ndarray]]:
    """Products, and noise from coarse to fine."""
    random = np.random.default_rng(1)
    made = []
    for number in range(count):
        if number % 2:
            picture = render_product(number, width=320, height=240, backdrop=Backdrop.CLUTTERED).image
        else:
            cells = int(random.integers(2, 40))
            coarse = random.integers(0, 256, (cells, cells, 3), np.uint8)
            picture = np.asarray(cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC))
        made.append(("random pictures", fit(picture, FORM)))
    return made


def labelled(pictures: list[tuple[str, np.ndarray]]) -> LabelledPictures:
    categories, arrays = zip(*pictures, strict=True)
    return LabelledPictures(tuple(range(len(pictures))), categories, np.stack(arrays))


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def quality(each: int) -> TrainedTemple:
    print("| hall | test accuracy | false alarms | " + " | ".join(["flagged: no door", "other hall", "random"]) + " |")
    print("|---" * 6 + "|")
    trained = None
    for name in HALLS:
        other = next(hall for hall in HALLS if hall != name)
        unknown = halls(name, (Door.NONE,), each // 2, UNKNOWN_SEED)
        unknown += [("other hall", picture) for _, picture in halls(other, KNOWN, each // 4, UNKNOWN_SEED)]
        unknown += random_pictures(each // 2)
        train, test = halls(name, KNOWN, each, 0), halls(name, KNOWN, each // 2, TEST_SEED)
        trained = train_temple(labelled(train), labelled([*test, *unknown]), FORM, options=TrainingOptions())
        report = trained.report
        told = {scenes.category: f"{scenes.flagged} of {scenes.pictures}" for scenes in report.unknown}
        cells = [name, f"{report.accuracy:.1%}", f"{report.false_alarm_rate:.1%}"]
        print(" | ".join(["", *cells, told[str(Door.NONE)], told["other hall"], told["random pictures"], ""]).strip())
    assert trained is not None
    return trained


def prediction(trained: TrainedTemple, images: int) -> None:
    files = [
        cv2.imencode(".jpg", render_hall(HALLS["hill-gate"], KNOWN[n % 2], n))[1].tobytes()
        for n in range(min(images, 100))
    ]
    files = (files * (images // len(files) + 1))[:images]
    model = load_keras(trained.files)

    def one(data: bytes) -> None:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        model.predict(to_pixels(np.asarray(cv2.resize(picture, (FORM.width, FORM.height))))[None], verbose=0)

    def loop(some: list[bytes]) -> None:
        for data in some:
            one(data)

    def ours() -> None:
        assert sum(1 for _ in trained.classifier.classify_files(enumerate(files))) == images

    one(files[0])
    few = files[:: max(1, images // 100)]
    print("\n| 1,000 pictures of one temple | images/s | CPU ms an image |\n|---|---|---|")
    figures = {}
    for name, count, work in (("`model.predict`, one by one", len(few), lambda: loop(few)), ("ours", images, ours)):
        wall, cpu = seconds(work)
        figures[name] = count / wall
        print(f"| {name} | {count / wall:.0f} | {cpu / count * 1000:.1f} |")
    slow, fast = figures.values()
    print(f"\nratio {fast / slow:.1f} (goal 20)")


def training(epochs: int) -> None:
    pictures = labelled(halls("lakeside", KNOWN, TRAINED_ON // 2, 0))
    truth = np.eye(2, dtype=np.float32)[[KNOWN.index(Door(category)) for category in pictures.categories]]
    pixels = to_pixels(pictures.pictures)
    options = TrainingOptions(epochs=epochs, patience=epochs)
    none = LabelledPictures((), (), np.zeros((0, *FORM.shape), np.uint8))

    def bare(passes: int) -> None:
        model = build_architecture(standard_architecture(FORM.shape, 2))
        compile_network(model)
        model.fit(pixels, truth, batch_size=options.batch_size, epochs=passes, verbose=0)

    bare(1)
    print(f"\n| training, 400 pictures, {epochs} passes | s | CPU s |\n|---|---|---|")
    taken = []
    for name, work in (
        ("bare `model.fit`", lambda: bare(epochs)),
        ("ours, from pictures to tested files", lambda: train_temple(pictures, none, FORM, options=options)),
    ):
        wall, cpu = seconds(work)
        taken.append(wall)
        print(f"| {name} | {wall:.1f} | {cpu:.1f} |")
    print(f"\nratio {taken[1] / taken[0]:.2f} (goal at most 1.5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="pictures to predict")
    parser.add_argument("--epochs", type=int, default=100, help="passes of the training whose time is taken")
    parser.add_argument("--each", type=int, default=200, help="training pictures of each category for the quality")
    arguments = parser.parse_args()
    trained = quality(arguments.each)
    prediction(trained, arguments.images)
    training(arguments.epochs)


if __name__ == "__main__":
    main()
