"""Review: one picture at a time, large, decided with a key; the next ones are there before they are asked for."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import streamlit as st

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.catalogue.qc import (
    Decision,
    NotReviewableError,
    ReviewError,
    ReviewItem,
    ReviewLimits,
    approve,
    claim_review,
    pending_reviews,
    reject,
    release_review,
    undo,
)
from imgpipe_dagster.catalogue.qc_reports import COUNTED_AT_MOST, review_progress
from imgpipe_dagster.catalogue.tables import QcStatus
from imgpipe_dagster.configured import review_limits
from imgpipe_dagster.dashboard.links import image_link
from imgpipe_dagster.dashboard.people import Person, require
from imgpipe_dagster.dashboard.pictures import full_picture, large_picture
from imgpipe_dagster.dashboard.services import engine, settings, store
from imgpipe_dagster.dashboard.telling import told
from imgpipe_dagster.dashboard.words import counted, gain, plain, spoken
from imgpipe_dagster.imaging.background import available_methods
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.imaging.rework import RejectionReason
from imgpipe_dagster.store.base import StoreError

SEEN_S = 0.4
"""A picture is not decided on before it has been there for so long: that key was meant for the one before it."""

AHEAD = 2
"""Pictures that are claimed and loaded before their turn: with one alone, who decides fast would wait for the next."""

REASON_KEYS = dict(zip(RejectionReason, "1234567890QWE", strict=True))
_DESK, _NOTES, _REASON = "review_desk", "review_notes", "review_reason"
_ZOOM, _ORIGINAL = "review_zoom", "review_original"
# Prefetched pictures are loaded by the browser without being shown; a zoomed one is moved in its frame.
_STYLE = """<style>
.st-key-review_ahead { display: none; }
.st-key-review_zoomed { overflow: auto; max-height: 80vh; }
.st-key-review_zoomed img { max-width: none !important; width: auto !important; }
.st-key-review_zoomed * { overflow: visible !important; }
</style>"""
_TO_THE_MIDDLE = """<script>
(() => {
  const frame = document.querySelector(".st-key-review_zoomed");
  const picture = frame && frame.querySelector("img");
  if (!picture) return;
  const centre = () => frame.scrollTo(
    (frame.scrollWidth - frame.clientWidth) / 2, (frame.scrollHeight - frame.clientHeight) / 2);
  if (picture.complete) centre(); else picture.addEventListener("load", centre, { once: true });
})();
</script>"""


@dataclass
class Desk:
    """What one reviewer has before them.

    Attributes:
        reviewer: Who.
        current: The picture that is looked at.
        claimed_at: When that was claimed, by this process's clock.
        shown_at: When it was put before them, by the same.
        ahead: The pictures that come next; they are claimed as well.
        passed: Where the last picture that was passed over stands in the queue.
        last: The last decision.
        last_notes: What was noted with it.
        decided_at: When that was, by this process's clock.
    """

    reviewer: str
    current: ReviewItem | None = None
    claimed_at: float = 0.0
    shown_at: float = 0.0
    ahead: list[ReviewItem] = field(default_factory=list)
    passed: tuple[float, int] | None = None
    last: Decision | None = None
    last_notes: str = ""
    decided_at: float = 0.0


def limits() -> ReviewLimits:
    """How long claims and undoing last."""
    return review_limits(settings())


def show(who: Person) -> None:
    """Show the page."""
    st.title("Review")
    if not require(Scope.REVIEW, who):
        return
    desk = _desk(who)
    _keep_claim(desk)
    _progress(desk)
    with st.container(key="review_undo", height="content"):  # there in any case, so that nothing below it moves
        _undo_bar(desk)
    item = desk.current
    if item is None:
        _nothing_left(desk)
        return
    st.html(_STYLE)
    _keys(desk, item)
    left, right = st.columns([3, 2])
    with left:
        _picture(item)
    with right:
        _reasons()
        _facts(item)
    _fetch_ahead(desk)


def _desk(who: Person) -> Desk:
    desk = st.session_state.get(_DESK)
    if desk is None or desk.reviewer != who.name:
        if desk is not None:
            _leave(desk)
        desk = st.session_state[_DESK] = Desk(who.name)
    if desk.current is None:
        advance(desk)
    return desk


def advance(desk: Desk) -> None:
    """Put the next picture before the reviewer, and claim those after it."""
    desk.current = None
    while desk.ahead and desk.current is None:
        desk.current = _reclaimed(desk, desk.ahead.pop(0))
    desk.current = desk.current or _claimed(desk)
    desk.claimed_at = desk.shown_at = time.monotonic()
    while desk.current is not None and len(desk.ahead) < AHEAD and (item := _claimed(desk)):
        desk.ahead.append(item)


def _claimed(desk: Desk) -> ReviewItem | None:
    """The most urgent picture behind those that were passed over or are at hand, claimed; None if there is none."""
    at_hand = {item.image_id for item in (desk.current, *desk.ahead) if item is not None}
    waiting = pending_reviews(engine(), limits=limits(), after=desk.passed, reviewer=desk.reviewer, at_most=10)
    for item in waiting:
        if item.image_id not in at_hand and (claimed := _reclaimed(desk, item)):
            return claimed
    return None


def _reclaimed(desk: Desk, item: ReviewItem) -> ReviewItem | None:
    """A picture of the queue, claimed anew; None if somebody was faster."""
    try:
        return claim_review(engine(), item.image_id, reviewer=desk.reviewer, limits=limits())
    except ReviewError:
        return None


def _keep_claim(desk: Desk) -> None:
    """Claim what is looked at again before its claim ends."""
    if desk.current is None or time.monotonic() - desk.claimed_at < limits().claim_s / 2:
        return
    desk.current = _reclaimed(desk, desk.current)
    desk.claimed_at = time.monotonic()
    if desk.current is None:
        st.warning(
            "That picture was decided on meanwhile, by somebody else or in another window of yours: here is another."
        )
        advance(desk)


def _leave(desk: Desk) -> None:
    for item in (desk.current, *desk.ahead):
        if item is not None:
            release_review(engine(), item.image_id, reviewer=desk.reviewer)


def _progress(desk: Desk) -> None:
    progress = review_progress(engine(), desk.reviewer)
    waiting = f"{progress.waiting:,}" + ("+" if progress.waiting == COUNTED_AT_MOST else "")
    st.caption(
        f"Today {plain(desk.reviewer)} has decided on {counted(progress.mine, 'picture')}, all reviewers on "
        f"{progress.all:,}. {waiting} wait."
    )
    done, open_ = progress.all, progress.waiting
    if done + open_:
        st.progress(done / (done + open_))


def _nothing_left(desk: Desk) -> None:
    if desk.passed is not None:
        st.info("That was the last picture of the queue; some were passed over.", icon=":material/done_all:")
        st.button("Begin again", on_click=_begin_again, args=(desk,))
        return
    minutes = f"{limits().claim_s / 60:.0f} minutes"
    st.info(
        f"What waits is before other reviewers, or in another window of yours. It comes back within {minutes}."
        if review_progress(engine(), desk.reviewer).waiting
        else "Nothing waits for a review. Pictures come here after their enhancement, where a score is not enough.",
        icon=":material/done_all:",
    )
    st.button("Look again")


def _begin_again(desk: Desk) -> None:
    desk.passed = None


def _can_be_seen(item: ReviewItem) -> bool:
    """Whether there is an enhanced picture that can be shown; why not is told in the picture's place."""
    if item.enhanced_key is None:
        return False
    try:
        large_picture(store(), item.enhanced_key)
    except (StoreError, DecodeError):
        return False
    return True


def _keys(desk: Desk, item: ReviewItem) -> None:
    why = spoken(item.review_reasons) or "no reason is kept"
    st.markdown(f"**Image {item.image_id}**, SKU {plain(item.sku_id or 'unknown')}, waits because of: {plain(why)}")
    with st.container(horizontal=True):
        _button("Approve", "A", _approve, desk, item, disabled=not _can_be_seen(item), icon="check_circle", of=item)
        _button("Reject", "X", _reject, desk, item, icon="cancel", of=item)
        _button("Next", "N", _pass_over, desk, item, of=item)
        _button("Zoom", "Z", _toggle, _ZOOM, icon=_switch(_ZOOM))
        _button("Original", "O", _toggle, _ORIGINAL, icon=_switch(_ORIGINAL))


def _reasons() -> None:
    chosen = st.session_state.get(_REASON)
    st.caption("To reject it, choose what is wrong: the picture is enhanced again accordingly.")
    with st.container(horizontal=True, gap="small"):
        for reason, key in REASON_KEYS.items():
            icon = "radio_button_checked" if reason == chosen else "radio_button_unchecked"
            _button(spoken(reason), key, _choose, reason, icon=icon, help=reason.meaning)
    st.caption(RejectionReason(chosen).meaning if chosen is not None else "No reason is chosen.")
    st.text_input("Notes", key=_NOTES, max_chars=2000, placeholder="Anything worth keeping", persist_state="session")


def _button(
    label: str,
    key: str,
    work: Callable[..., None],
    *args: object,
    disabled: bool = False,
    icon: str | None = None,
    help: str | None = None,
    of: ReviewItem | None = None,
) -> None:
    # Of each picture its own buttons: what a browser sends that still shows the one before is for no other.
    picture = "" if of is None else f"_{of.image_id}_{of.rework_count}"
    st.button(
        label,
        shortcut=key,
        on_click=_telling,
        args=(work, *args),
        disabled=disabled,
        icon=icon and f":material/{icon}:",
        help=help,
        key=f"review_key_{key}{picture}",
    )


def _telling(work: Callable[..., None], *args: object) -> None:
    with told(again=False):
        work(*args)


def _approve(desk: Desk, item: ReviewItem) -> None:
    if item.enhanced_key is not None and not store().exists(item.enhanced_key):  # what is shown may be kept from before
        raise NotReviewableError(
            f"Image {item.image_id} was not approved: its file has gone from the store. Reject it, and it is enhanced "
            "again, or go on with N."
        )
    notes = st.session_state.get(_NOTES) or None
    _decide(
        desk,
        item,
        lambda: approve(
            engine(),
            item.image_id,
            reviewer=desk.reviewer,
            url_of=store().open_url,
            limits=limits(),
            notes=notes,
            sha256=item.enhanced_sha256,
        ),
    )


def _reject(desk: Desk, item: ReviewItem) -> None:
    chosen = st.session_state.get(_REASON)
    if chosen is None:
        st.warning("To reject it, choose what is wrong first: the keys stand on the reasons.", icon=":material/info:")
        return
    notes, reason = st.session_state.get(_NOTES) or None, RejectionReason(chosen)
    _decide(
        desk,
        item,
        lambda: reject(
            engine(),
            item.image_id,
            reviewer=desk.reviewer,
            reason=reason,
            limits=limits(),
            notes=notes,
            sha256=item.enhanced_sha256,
            methods=available_methods(),
        ),
    )


def _decide(desk: Desk, item: ReviewItem, decide: Callable[[], Decision]) -> None:
    """Make a decision and go on, also where somebody else was faster: then that is told."""
    if desk.current is None or desk.current.image_id != item.image_id:
        return  # the key was pressed twice, and the first time was meant for this picture
    if time.monotonic() - desk.shown_at < SEEN_S:
        return  # it has not been seen yet
    notes = st.session_state.get(_NOTES) or ""
    try:
        desk.last, desk.decided_at, desk.last_notes = decide(), time.monotonic(), notes
    except ReviewError:
        _go_on(desk)
        raise
    _go_on(desk)


def _pass_over(desk: Desk, item: ReviewItem) -> None:
    release_review(engine(), item.image_id, reviewer=desk.reviewer)
    desk.passed = item.cursor
    _go_on(desk)


def _go_on(desk: Desk) -> None:
    advance(desk)  # first: with the next key Streamlit ends this wherever the session's state is touched
    _clear()


def _clear(notes: str = "") -> None:
    st.session_state[_NOTES] = notes
    for name in (_REASON, _ZOOM, _ORIGINAL):
        st.session_state.pop(name, None)


def _toggle(name: str) -> None:
    st.session_state[name] = not st.session_state.get(name, False)


def _switch(name: str) -> str:
    return "toggle_on" if st.session_state.get(name) else "toggle_off"


def _choose(reason: RejectionReason) -> None:
    st.session_state[_REASON] = reason


def _undo_bar(desk: Desk) -> None:
    if desk.last is not None and _undo_left_s(desk) > 0:
        _undo_fragment(desk)


def _undo_left_s(desk: Desk) -> float:
    return limits().undo_s - (time.monotonic() - desk.decided_at)


@st.fragment(run_every=1)
def _undo_fragment(desk: Desk) -> None:
    left, last = _undo_left_s(desk), desk.last
    if left <= 0 or last is None:
        st.rerun()
    match last.qc_status:
        case QcStatus.APPROVED:
            what = "approved"
        case QcStatus.PENDING:
            what = "rejected and is enhanced again"
        case _:
            what = "rejected for good"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.write(f"Image {last.image_id} was {what}.")
        if st.button("Undo", shortcut="U", on_click=_telling, args=(_undo, desk, last), key="review_key_U"):
            st.rerun()
        st.caption(f"for another {max(1, round(left))} s")


def _undo(desk: Desk, last: Decision) -> None:
    desk.last = None
    undo(engine(), last.image_id, reviewer=desk.reviewer, limits=limits())
    back = claim_review(engine(), last.image_id, reviewer=desk.reviewer, limits=limits())
    if desk.current is not None:
        desk.ahead.insert(0, desk.current)
    desk.current = back
    desk.claimed_at = desk.shown_at = time.monotonic()
    _clear(desk.last_notes)


def _picture(item: ReviewItem) -> None:
    original = bool(st.session_state.get(_ORIGINAL)) or item.enhanced_key is None
    key = item.original_key if original else item.enhanced_key
    kind = "original" if original else "enhanced"
    if item.enhanced_key is None:
        st.warning("No enhanced picture could be made: this is the original.", icon=":material/hide_image:")
    if key is None:
        st.error("There is no picture of it in the store.", icon=":material/hide_image:")
        return
    alt = f"Image {item.image_id}, {kind}"
    try:
        if st.session_state.get(_ZOOM):
            with st.container(key="review_zoomed"):
                st.image(full_picture(store(), key), alt=f"{alt}, every pixel")
        else:
            st.image(large_picture(store(), key), alt=alt, width="stretch")
    except (StoreError, DecodeError) as error:
        advice = (
            "" if original else " It cannot be approved unseen: reject it, and it is enhanced again, or go on with N."
        )
        st.error(
            f"The picture cannot be shown: it is not in the store, or damaged.{advice}", icon=":material/hide_image:"
        )
        st.expander("Which").text(str(error))
        return
    if st.session_state.get(_ZOOM):
        st.html(_TO_THE_MIDDLE, unsafe_allow_javascript=True)
        st.caption("Every pixel is shown: move the picture in its frame. Z shows it whole again.")
    st.caption(f"{kind}, {item.width} by {item.height} pixels" if kind == "enhanced" else kind)


def _facts(item: ReviewItem) -> None:
    after = "none" if item.score is None else f"{item.score:.0f}"
    st.metric("Score", after, gain(item.score_before, item.score))
    facts = {
        "product group": item.product_group_id,
        "value": None if item.value is None else f"{item.value:g}",
        "wrong with it": spoken(item.issues),
        "reworks": item.rework_count or None,
    }
    st.markdown("  \n".join(f"**{name}** {plain(value)}" for name, value in facts.items() if value))
    image_link(item.image_id, f"Image {item.image_id}")
    if item.steps:
        st.markdown("**steps**  \n" + "  \n".join(plain(f"{step['step']}: {step['why']}") for step in item.steps))


def _fetch_ahead(desk: Desk) -> None:
    """Let the browser load the next pictures while this one is looked at."""
    with st.container(key="review_ahead"):
        for key in (item.enhanced_key or item.original_key for item in desk.ahead):
            try:
                if key:
                    st.image(large_picture(store(), key), alt="A picture that comes next")
            except (StoreError, DecodeError):
                continue  # it is told when it is that picture's turn
