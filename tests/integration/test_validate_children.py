"""The pool of decoding children, with real processes that crash, hang and eat memory."""

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.validate import ValidationLimits, Validator
from imgpipe_dagster.reasons import Reason

Encode = Callable[..., bytes]

# A worker whose decoder misbehaves on some "files".
MISBEHAVING_WORKER = """
import os, signal, sys, time
from imgpipe_dagster.imaging import examine as check, validate_worker

def examine(data, limits, take):
    if data == b"shrink":
        os.ftruncate(int(sys.argv[2]), 0)
    if data == b"abort":
        os.abort()
    if data == b"segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"exit":
        sys.exit(7)
    if data == b"hang":
        time.sleep(60)
    return check.examine(data, limits, take)

check._BYTES_PER_PIXEL = 0  # so that only the limit of the process is left
validate_worker.examine = examine
validate_worker.main()
"""


@pytest.fixture
def misbehaving_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "worker.py"
    script.write_text(MISBEHAVING_WORKER)
    monkeypatch.setattr("imgpipe_dagster.imaging.validate._WORKER", (sys.executable, str(script)))
    return script


@pytest.fixture(scope="module")
def good(encode: Encode, photo: np.ndarray) -> bytes:
    return encode(photo, "JPEG")


def children(program: str = "imgpipe_dagster.imaging.validate_worker") -> list[psutil.Process]:
    """The living children of this process that run this program; other tests' may end while one looks at them."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie has no command line either
            if program in child.cmdline():
                found.append(child)
    return found


def wait_until_gone(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline, "the children live on"
                time.sleep(0.05)


@pytest.mark.parametrize(
    ("file", "cause"), [(b"abort", "SIGABRT"), (b"segfault", "SIGSEGV"), (b"exit", "exit status 7")]
)
def test_a_crash_of_the_decoder_rejects_that_file_only(misbehaving_worker, good: bytes, file: bytes, cause: str):
    with Validator(workers=2) as validator:
        items = [(number, file if number == 3 else good) for number in range(12)]
        verdicts = dict(validator.validate_all(items))
    assert sorted(verdicts) == list(range(12))
    assert verdicts[3].reason is Reason.DECODER_CRASHED
    assert cause in verdicts[3].detail
    assert all(verdicts[number].ok for number in verdicts if number != 3)


def test_a_decoder_that_hangs_is_stopped_at_its_time_limit(misbehaving_worker, good: bytes):
    with Validator(ValidationLimits(timeout_s=0.5), workers=1) as validator:
        assert validator.validate(good).ok
        started = time.monotonic()
        verdict = validator.validate(b"hang")
        assert 0.4 < time.monotonic() - started < 5
        assert verdict.reason is Reason.DECODE_TIMEOUT
        assert "0.5 s" in verdict.detail
        assert validator.validate(good).ok


@pytest.mark.parametrize(("name", "memory_mb"), [("JPEG", 50), ("PNG", 50), ("BMP", 160), ("GIF", 130)])
def test_a_decoder_that_eats_memory_is_stopped_at_its_limit(
    misbehaving_worker, encode, good, name: str, memory_mb: int
):
    large = encode(np.zeros((5000, 4000, 3), np.uint8), name)
    with Validator(ValidationLimits(memory_mb=memory_mb), workers=1) as validator:
        assert validator.validate(large).reason is Reason.DECODE_MEMORY
        assert validator.validate(good).ok


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pixels_come_from_the_child_as_they_would_be_decoded_here(encode: Encode, photo: np.ndarray, name: str):
    turned = Image.Exif()
    turned[274] = 6
    with Validator(workers=1) as validator:
        for options in ({}, {"exif": turned}):
            file = encode(photo, name, **options)
            verdict, pixels = validator.decode(file)
            assert verdict.ok
            assert pixels is not None
            assert np.array_equal(pixels, decode_bgr(file))
        verdict, pixels = validator.decode(file[:-30])
        assert (verdict.ok, pixels) == (False, None)


def test_the_memory_of_a_large_picture_is_given_back_and_cannot_be_cut_off(misbehaving_worker, encode, good: bytes):
    large = encode(np.full((5000, 4000, 3), 9, np.uint8), "JPEG")
    with Validator(workers=1) as validator:
        _, pixels = validator.decode(large)
        assert pixels is not None
        assert (pixels == 9).all()
        [child] = children(str(misbehaving_worker))
        shared = Path(f"/proc/{child.pid}/fd/{child.cmdline()[-1]}").stat()
        assert shared.st_size == 3 * ValidationLimits().max_pixels
        assert 512 * shared.st_blocks < 32 * 2**20
        assert validator.decode(large[:-2])[0].reason is Reason.TRUNCATED
        left = Path(f"/proc/{child.pid}/fd/{child.cmdline()[-1]}").stat()
        assert 512 * left.st_blocks < 32 * 2**20, "a refused picture leaves its pixels there as well"
        with pytest.raises(ZeroDivisionError), validator.decoded(large):
            raise ZeroDivisionError
        left = Path(f"/proc/{child.pid}/fd/{child.cmdline()[-1]}").stat()
        assert 512 * left.st_blocks < 32 * 2**20, "whatever becomes of them"
        assert validator.validate(b"shrink").reason is Reason.DECODER_CRASHED
        assert validator.decode(good)[0].ok


def test_every_file_is_answered_once_whatever_happens(misbehaving_worker, good: bytes):
    kinds = [good, good, good[:-30], b"", b"segfault", b"<html>", b"abort"]
    items = [(number, kinds[number % len(kinds)]) for number in range(70)]
    with Validator(workers=3) as validator:
        answers = list(validator.validate_all(items))
    assert Counter(key for key, _ in answers) == Counter(range(70))
    assert Counter(verdict.reason for _, verdict in answers) == {
        None: 20, Reason.TRUNCATED: 10, Reason.EMPTY_FILE: 10, Reason.DECODER_CRASHED: 20, Reason.NOT_AN_IMAGE: 10,
    }  # fmt: skip


def test_a_bomb_is_rejected_quickly_and_with_little_memory():
    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    pixels = zlib.compress(bytes(16384 * (1 + 16384 // 8)), 9)
    header = struct.pack(">IIBBBBB", 16384, 16384, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    assert len(bomb) < 34_000
    with Validator(workers=1) as validator:
        validator.validate(b"")
        started = time.monotonic()
        verdict = validator.validate(bomb)
        assert time.monotonic() - started < 1
        (child,) = children()
        status = Path(f"/proc/{child.pid}/status").read_text()
    assert verdict.reason is Reason.TOO_MANY_PIXELS
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
    assert peak_mb < 150, "a decoded bomb takes 256 MB and more"


def test_files_are_taken_only_as_they_are_needed(good: bytes):
    taken = 0

    def items() -> Iterator[tuple[int, bytes]]:
        nonlocal taken
        for taken in range(1, 101):
            yield taken, good

    with Validator(workers=2) as validator:
        answers = validator.validate_all(items())
        for answered in range(1, 101):
            next(answers)
            assert taken <= answered + 2 * 2
        assert list(answers) == []


def test_an_error_of_the_source_reaches_the_caller(good: bytes):
    def items() -> Iterator[tuple[int, bytes]]:
        yield 1, good
        raise ConnectionError("the store is gone")

    with Validator(workers=1) as validator:
        with pytest.raises(ConnectionError, match="the store is gone"):
            list(validator.validate_all(items()))
        assert validator.validate(good).ok


def test_answers_nobody_waits_for_do_not_hold_up_the_end(good: bytes):
    started = time.monotonic()
    with Validator(workers=2) as validator:
        next(validator.validate_all((number, good) for number in range(10_000)))
    assert time.monotonic() - started < 10
    assert children() == []


def test_a_child_that_died_while_idle_is_replaced(good: bytes):
    with Validator(workers=1) as validator:
        assert validator.validate(good).ok
        children()[0].kill()
        time.sleep(0.1)
        assert validator.validate(good).ok


def test_children_that_cannot_start_are_an_error_and_no_verdict(monkeypatch: pytest.MonkeyPatch, good: bytes):
    broken = (sys.executable, "-c", "raise SystemExit(5)")
    monkeypatch.setattr("imgpipe_dagster.imaging.validate._WORKER", broken)
    with Validator(workers=1) as validator, pytest.raises(RuntimeError, match="exit status 5"):
        validator.validate(good)


def test_a_child_starts_when_a_file_finds_the_others_busy(good: bytes):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    slow = cv2.imencode(".png", noise)[1].tobytes()  # a child is busy with it for some time
    with Validator(workers=3) as validator:
        assert children() == []
        assert [validator.validate(good).ok for _ in range(3)] == [True] * 3
        assert len(children()) == 1
        assert len(dict(validator.validate_all((number, slow) for number in range(12)))) == 12
        assert len(children()) == 3
    assert children() == []


def test_children_hold_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IMGPIPE_DATABASE_URL", "mysql://imgpipe:canary@db/imgpipe")
    with Validator(workers=1) as validator:
        validator.validate(b"")
        environment = children()[0].environ()
    assert "PATH" in environment
    assert "canary" not in str(environment)


def test_children_import_neither_dagster_nor_torch(good: bytes):
    with Validator(workers=1) as validator:
        validator.validate(good)
        maps = Path(f"/proc/{children()[0].pid}/maps").read_text()
    assert "cv2" in maps
    assert not any(heavy in maps for heavy in ("torch", "pydantic_core", "sqlalchemy", "tensorflow"))


@pytest.mark.parametrize(("file", "seconds"), [(b"", 3), (b"hang", 12)])
def test_children_die_with_their_parent(misbehaving_worker: Path, file: bytes, seconds: float):
    parent = f"""
import sys
from imgpipe_dagster.imaging import validate
validate._WORKER = (sys.executable, {str(misbehaving_worker)!r})
with validate.Validator(validate.ValidationLimits(timeout_s=2), workers=1) as validator:
    validator.validate(b"")
    print("ready", flush=True)
    validator.validate({file!r})
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pids = [child.pid for child in psutil.Process(process.pid).children()]
        assert len(pids) == 1
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
    wait_until_gone(pids, seconds)
