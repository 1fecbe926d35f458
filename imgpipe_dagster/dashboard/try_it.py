"""One picture, uploaded or fetched: what the models find in it, what they call it, and what enhancement makes of it."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import streamlit as st

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.configured import enhancement_defaults, fetch_policy, open_classifier, open_detector
from imgpipe_dagster.dashboard.compare import compare
from imgpipe_dagster.dashboard.people import Person, require
from imgpipe_dagster.dashboard.pictures import jpeg_of
from imgpipe_dagster.dashboard.services import settings, validator
from imgpipe_dagster.dashboard.words import counted, plain
from imgpipe_dagster.fetch.answers import FetchRequest
from imgpipe_dagster.fetch.client import fetch_all
from imgpipe_dagster.imaging.background import MethodUnavailableError
from imgpipe_dagster.imaging.draw import draw_boxes
from imgpipe_dagster.imaging.enhance import Enhanced, enhance
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.models.classifier import Classifier
from imgpipe_dagster.models.detector import Detector
from imgpipe_dagster.models.weights import WeightsError
from imgpipe_dagster.reasons import Reason

T = TypeVar("T")

_AT_ONCE = threading.BoundedSemaphore(2)  # pictures in work at once, whoever tries
_FETCH_ATTEMPTS = 2
_UPLOADS = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"]


@dataclass(frozen=True)
class Tried:
    """What came of one picture.

    Attributes:
        digest: Which picture, as SHA-256.
        seen: The picture with boxes, as JPEG.
        objects: Found objects: class and confidence, the most confident first.
        classes: The classifier's classes with their probabilities, the most probable first; None without a classifier.
        original: The picture as it came, as JPEG.
        enhanced: The enhanced picture, as JPEG; None where nothing could be made.
        made: Its scores and steps.
        problems: What could not be done, and why.
    """

    digest: str
    seen: bytes | None
    objects: tuple[tuple[str, float], ...]
    classes: tuple[tuple[str, float], ...] | None
    original: bytes
    enhanced: bytes | None
    made: Enhanced | None
    problems: tuple[str, ...]


def show(who: Person) -> None:
    """Show the page."""
    st.title("Try it")
    if not require(Scope.READ, who):
        return
    st.write("Nothing of it is kept.")
    data = _picture()
    if data is None:
        return
    digest = hashlib.sha256(data).hexdigest()
    tried = st.session_state.get("tried")
    if tried is None or tried.digest != digest:
        tried = _try(data, digest)
        if tried is None:
            return
        st.session_state["tried"] = tried
    _results(tried)


def _picture() -> bytes | None:
    most = settings().api_max_upload_bytes
    left, right = st.columns(2)
    upload = left.file_uploader("A picture", _UPLOADS, key="try_upload", max_upload_size=max(1, most // 2**20))
    url = right.text_input("Or its address", key="try_url", placeholder="https://…", max_chars=2048).strip()
    if upload is not None:
        if url:
            st.info("The uploaded picture is shown; remove it to try the address.", icon=":material/info:")
        return upload.getvalue()
    if url.lower().startswith(("https://", "http://")):
        return _fetched(url)
    if url:
        st.error("Enter an address that begins with https:// or http://.", icon=":material/link_off:")
        return None
    st.info("Choose a picture on this machine, or enter the address of one.", icon=":material/upload:")
    return None


def _fetched(url: str) -> bytes | None:
    policy = fetch_policy(settings(), max_bytes=settings().api_max_upload_bytes, attempts=_FETCH_ATTEMPTS)
    with st.spinner("Fetching the picture …"):
        (answer,) = fetch_all([FetchRequest(1, url)], policy)
    if answer.data is None:
        # The advice on what is no URL is for who imports a list.
        advice = answer.reason.advice if answer.reason not in (None, Reason.URL_INVALID) else "Look at its address."
        st.error(f"The picture cannot be had. {advice} ({plain(answer.detail)})", icon=":material/link_off:")
    return answer.data


def _try(data: bytes, digest: str) -> Tried | None:
    problems: list[str] = []
    with st.status("Looking at the picture …", expanded=True) as status, _AT_ONCE:
        verdict, image = validator().decode(data)
        if verdict.reason is not None or image is None:
            status.update(label="This file cannot be used.", state="error", expanded=True)
            advice = verdict.reason.advice if verdict.reason else ""
            st.error(f"{advice} ({plain(verdict.detail)})", icon=":material/broken_image:")
            return None
        st.write("Finding objects …")
        seen, objects = _or_problem(problems, lambda: _detected(image)) or (None, ())
        st.write("Classifying …")
        classes = _or_problem(problems, lambda: _classified(image))
        st.write("Enhancing …")
        made = _or_problem(problems, lambda: enhance(data, enhancement_defaults(settings()), decoded=image))
        status.update(label="Done", state="complete", expanded=False)
    after = None if made is None else jpeg_of(made.image)
    return Tried(digest, seen, objects, classes, jpeg_of(image), after, made, tuple(problems))


def _or_problem(problems: list[str], work: Callable[[], T]) -> T | None:
    """The result, or None with what is wrong noted: one model that cannot be had does not take the others along."""
    try:
        return work()
    except (WeightsError, MethodUnavailableError, DecodeError, ValueError, OSError) as error:
        problems.append(str(error))
        return None


def _detected(image: np.ndarray) -> tuple[bytes, tuple[tuple[str, float], ...]]:
    detector = _detector()
    found = detector.detect(image)
    drawn = draw_boxes(image, found.xyxy, found.class_id, detector.names, found.confidence)
    names = [detector.names[int(class_id)] for class_id in found.class_id]
    return jpeg_of(drawn), tuple(zip(names, map(float, found.confidence), strict=True))


def _classified(image: np.ndarray) -> tuple[tuple[str, float], ...]:
    classifier = _classifier()
    answer = classifier.classify(image)
    named = [(classifier.names[place], float(share)) for place, share in enumerate(answer.values)]
    return tuple(sorted(named, key=lambda item: -item[1]))


@st.cache_resource(show_spinner="Loading the detector …")
def _detector() -> Detector:
    return open_detector(settings())


@st.cache_resource(show_spinner="Loading the classifier …")
def _classifier() -> Classifier:
    return open_classifier(settings())


def _results(tried: Tried) -> None:
    for problem in tried.problems:
        st.warning(plain(problem, 500), icon=":material/error:")
    detect, classify = st.columns(2)
    with detect:
        st.header("Detected")
        if tried.seen is not None:
            st.image(tried.seen, alt=f"The picture with {counted(len(tried.objects), 'object')}", width="stretch")
            counts = pd.Series([name for name, _ in tried.objects], dtype=str).value_counts()
            found = ", ".join(f"{count} {plain(name)}" for name, count in counts.items())
            st.write(found or "Nothing was found in it.")
    with classify:
        st.header("Classified")
        for name, share in tried.classes or ():
            st.progress(share, text=f"{plain(name)} {share:.2f}")
    st.header("Enhanced")
    if tried.enhanced is not None and tried.made is not None:
        compare(tried.original, tried.enhanced, what="The picture", key="try_compare")
        before, after = st.columns(2)
        before.metric("Score before", f"{tried.made.before.score:.0f}")
        after.metric("Score after", f"{tried.made.after.score:.0f}")
        st.markdown("  \n".join(plain(f"{p.step}: {p.why}") for p in tried.made.steps) or "No step was needed.")
