"""Speed of mode ``full``, from decoded 1280 x 960 photos to files of at most 500 KB, against the obvious way.

The obvious way does the same steps as most scripts do: full-size grabCut with five iterations from a rectangle just
inside the border, ``fastNlMeansDenoisingColored``, an equalised lightness, Lanczos to 1500 px, an unsharp mask, and
JPEG qualities stepped down by five until the file fits. Both see the same rendered photos, plain and cluttered by
turns; ours takes two threads and the product's box where the scene is cluttered. Masks are held to the known alpha.

    python benchmarks/enhancement.py [--images 12] [--obvious 4]
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from imgpipe_dagster.demo.products import Backdrop, ProductPhoto, render_product
from imgpipe_dagster.imaging.enhance import enhance
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode

TARGET_KB = 500


def obvious(photo: ProductPhoto) -> tuple[np.ndarray, bytes]:
    height, width = photo.image.shape[:2]
    labels = np.zeros((height, width), np.uint8)
    rectangle = (10, 10, width - 20, height - 20)
    cv2.grabCut(photo.image, labels, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_RECT)
    mask = np.where(labels & 1, np.uint8(255), np.uint8(0))
    image = cv2.fastNlMeansDenoisingColored(photo.image, None, 5, 5, 7, 21)
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0])
    image = cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)
    image[mask == 0] = 255
    image = cv2.resize(image, (1500, round(1500 * height / width)), interpolation=cv2.INTER_LANCZOS4)
    image = cv2.addWeighted(image, 1.5, cv2.GaussianBlur(image, (0, 0), 3), -0.5, 0)
    for quality in range(95, 0, -5):
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= TARGET_KB * 1024:
            break
    return mask, data


def ours(photo: ProductPhoto, boxes: list) -> tuple[np.ndarray, bytes]:
    result = enhance(photo.image, EnhancementConfig(mode=Mode.FULL, target_kb=TARGET_KB), boxes=boxes)
    assert result.cutout is not None
    return result.cutout.alpha, result.encoded.data


def overlap(mask: np.ndarray, alpha: np.ndarray) -> float:
    found, wanted = mask > 127, alpha > 127
    return float((found & wanted).sum() / (found | wanted).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--obvious", type=int, default=4, help="images for the obvious way, which is slow")
    arguments = parser.parse_args()
    kinds = [Backdrop.PLAIN, Backdrop.CLUTTERED]
    photos = [
        render_product(500 + number, width=1280, height=960, backdrop=kinds[number % 2])
        for number in range(arguments.images)
    ]
    priors = [[photo.box] if number % 2 else [] for number, photo in enumerate(photos)]
    ours(photos[0], priors[0])

    wall, cpu = time.perf_counter(), time.process_time()
    slow = [obvious(photo) for photo in photos[: arguments.obvious]]
    slow_wall, slow_cpu = time.perf_counter() - wall, time.process_time() - cpu

    wall, cpu = time.perf_counter(), time.process_time()
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(2) as pool:
        fast = list(pool.map(ours, photos, priors))
    fast_wall, fast_cpu = time.perf_counter() - wall, time.process_time() - cpu

    print("| way | images | images/s | CPU s per image | mean IoU | largest file |")
    print("|---|---|---|---|---|---|")
    for name, done, wall, cpu in (
        ("the obvious way", slow, slow_wall, slow_cpu),
        ("mode full, two threads", fast, fast_wall, fast_cpu),
    ):
        agreement = np.mean([overlap(mask, photo.alpha) for (mask, _), photo in zip(done, photos, strict=False)])
        largest = max(len(data) for _, data in done) / 1024
        row = (
            f"{len(done)}",
            f"{len(done) / wall:.2f}",
            f"{cpu / len(done):.2f}",
            f"{agreement:.3f}",
            f"{largest:.0f} KB",
        )
        print(f"| {name} | {' | '.join(row)} |")
    speed = (len(fast) / fast_wall) / (len(slow) / slow_wall)
    print(f"\nRatio {speed:.1f} (goal 10), by CPU time {slow_cpu / len(slow) / (fast_cpu / len(fast)):.1f}.")


if __name__ == "__main__":
    main()
