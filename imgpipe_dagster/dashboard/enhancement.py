"""What enhancement made of a product's picture: before and after, scores, steps, rules, and the product's settings."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.catalogue.browse import ImageDetails, image_details, newest_enhanced
from imgpipe_dagster.catalogue.enhancement_configs import Scope as SettingsScope
from imgpipe_dagster.catalogue.enhancement_configs import (
    UnknownProductError,
    change_settings,
    effective_config,
    remove_settings,
)
from imgpipe_dagster.configured import box_classes, enhancement_defaults
from imgpipe_dagster.dashboard.compare import compare
from imgpipe_dagster.dashboard.links import asked_for_image
from imgpipe_dagster.dashboard.people import Person, require
from imgpipe_dagster.dashboard.pictures import jpeg_of, large_picture
from imgpipe_dagster.dashboard.quality import show_quality, show_rules, why_not_enhanced
from imgpipe_dagster.dashboard.services import engine, settings, store
from imgpipe_dagster.dashboard.words import gain, plain, spoken
from imgpipe_dagster.imaging.background import Box, MethodUnavailableError
from imgpipe_dagster.imaging.enhance import enhance
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.imaging.modes import KEEP, RANGES, TRANSPARENT, EnhancementConfig, Mode
from imgpipe_dagster.imaging.profiles import PROFILES
from imgpipe_dagster.store.base import StoreError

NO_PROFILE = "none"
_TOLD = "enhancement_told"
_DROPPED = "enhancement_dropped"  # how often: the fields begin anew then
_STEPS = {"light": 0.1, "denoise": 0.1, "sharpen": 0.1, "margin": 0.01}


def show(who: Person) -> None:
    """Show the page."""
    st.title("Enhancement")
    if not require(Scope.READ, who):
        return
    image_id = _chosen()
    if image_id is None:
        return
    if (told := st.session_state.pop(_TOLD, None)) is not None:
        st.success(told)
    found = image_details(engine(), image_id)
    if found is None:
        st.info(f"There is no image {image_id}.")
        return
    if found.enhanced is None:
        st.info(f"Image {image_id} was not enhanced: {why_not_enhanced(found.image)}")
        return
    _before_after(found)
    show_quality(found)
    sku_id = found.image["sku_id"]
    if sku_id is not None:
        st.header(f"Settings of {plain(sku_id)}")
        _settings(found, str(sku_id), who)


def _chosen() -> int | None:
    """The image that is looked at: the one of the address, or one of the newest."""
    sku_id = st.text_input("SKU", key="enhancement_sku", max_chars=100, placeholder="every SKU").strip() or None
    rows = newest_enhanced(engine(), sku_id=sku_id)
    asked_for = asked_for_image()
    labels = {row["image_id"]: f"Image {row['image_id']}, {row['sku_id']}, {spoken(row['qc_status'])}" for row in rows}
    if asked_for is not None and sku_id is None:
        labels.setdefault(asked_for, f"Image {asked_for}")
    if not labels:
        st.info(
            "No picture has been enhanced yet. Images that have a SKU are, after their answer, by Dagster's sensor or "
            "`imgpipe run --once`."
            if sku_id is None
            else "No picture of this SKU has been enhanced.",
            icon=":material/inbox:",
        )
        return None
    ids = list(labels)
    begin = ids.index(asked_for) if asked_for in ids else 0
    chosen = st.selectbox("Picture", ids, begin, format_func=lambda image_id: labels[image_id], key="enhancement_image")
    if chosen is not None and chosen != asked_for and sku_id is None:
        st.query_params["id"] = str(chosen)  # so that a link or a reload shows the same
    return chosen


def _before_after(found: ImageDetails) -> None:
    before, after = found.file.get("object_key"), (found.enhanced or {}).get("object_key")
    if before is None or after is None:
        st.info("There is no enhanced picture of it.", icon=":material/hide_image:")
        return
    try:
        pair = large_picture(store(), before), large_picture(store(), after)
    except (StoreError, DecodeError) as error:
        st.error("A file is no longer in the store, or cannot be read.", icon=":material/hide_image:")
        st.expander("Which").text(str(error))
        return
    compare(*pair, what=f"Image {found.image['id']}", key="enhancement_compare")


def _settings(found: ImageDetails, sku_id: str, who: Person) -> None:
    try:
        now = _effective(sku_id, {})
    except (UnknownProductError, ValueError) as error:
        st.error(f"The settings cannot be used: {plain(error, 500)}")
        return
    st.caption("What is not set here comes from the product group and from the installation.")
    with st.form(f"enhancement_settings_{sku_id}"):
        put = _fields(now, sku_id)
        with st.container(horizontal=True):
            preview = st.form_submit_button("Preview on this picture", icon=":material/preview:")
            save = st.form_submit_button("Save", icon=":material/save:")
            drop = st.form_submit_button("Use the group's settings again", icon=":material/undo:")
    if not (preview or save or drop):
        return
    if (save or drop) and not require(Scope.WRITE, who):
        return
    try:
        if preview:
            _preview(found, _effective(sku_id, put))
        elif save:
            kept = change_settings(engine(), SettingsScope.SKU, sku_id, put=put)
            own = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in kept.settings.items())
            st.success(f"Saved. Its own settings: {plain(own, 1000) or 'none'}. The next enhancement uses them.")
        else:
            removed = remove_settings(engine(), SettingsScope.SKU, sku_id)
            st.session_state[_DROPPED] = st.session_state.get(_DROPPED, 0) + 1
            st.session_state[_TOLD] = "Its own settings are gone." if removed else "It had no settings of its own."
            st.rerun()  # the form shows what counts now
    except (UnknownProductError, ValueError) as error:
        st.error(plain(error, 500))


def _effective(sku_id: str, put: dict[str, Any]) -> EnhancementConfig:
    return effective_config(engine(), SettingsScope.SKU, sku_id, enhancement_defaults(settings()), put=put)


def _fields(now: EnhancementConfig, sku_id: str) -> dict[str, Any]:
    """The fields of the form; what was changed in them, by the names of ``EnhancementConfig``.

    Their keys tell the SKU: what was typed for one product must not stay for the next, nor after its settings are gone.
    """

    def key(name: str) -> str:
        return f"enhancement_{name}_{sku_id}_{st.session_state.get(_DROPPED, 0)}"

    first, second, third = st.columns(3)
    profiles = [NO_PROFILE, *PROFILES]
    values: dict[str, Any] = {
        "mode": first.selectbox("Mode", list(Mode), list(Mode).index(now.mode), key=key("mode")).value,
        "background": second.text_input(
            "Background",
            now.background,
            help=f"white, #RRGGBB, {TRANSPARENT} or {KEEP}",
            max_chars=20,
            key=key("background"),
        ).strip(),
        "profile": third.selectbox(
            "Rules of",
            profiles,
            profiles.index(now.profile) if now.profile in profiles else 0,
            format_func=spoken,
            key=key("profile"),
        ),
        "min_dimension": first.number_input(
            "Longer side, pixels", 16, 10_000, now.min_dimension, help="16 to 10,000", key=key("min_dimension")
        ),
        "target_kb": second.number_input(
            "Largest file, KB",
            1.0,
            100_000.0,
            float(now.target_kb or 500),
            format="%.0f",
            help="1 to 100,000",
            key=key("target_kb"),
        ),
    }
    for (name, step), column in zip(_STEPS.items(), (third, first, second, third), strict=True):
        low, high = RANGES[name]
        values[name] = column.slider(
            name.capitalize(), float(low), float(high), float(getattr(now, name)), step, key=key(name)
        )
    if values["profile"] == NO_PROFILE:
        values["profile"] = None
    return {name: value for name, value in values.items() if value is not None and value != _value(now, name)}


def _value(config: EnhancementConfig, name: str) -> object:
    value = getattr(config, name)
    return value.value if isinstance(value, Mode) else value


def _preview(found: ImageDetails, config: EnhancementConfig) -> None:
    try:
        with st.spinner("Enhancing the picture …"):
            data = store().get(found.file["object_key"])
            made = enhance(data, config, boxes=prior_boxes(found.objects))
    except (StoreError, DecodeError, MethodUnavailableError) as error:
        st.error(f"There is no preview: {plain(error, 500)}", icon=":material/hide_image:")
        return
    before, after, size = st.columns(3)
    before.metric("Score before", f"{made.before.score:.0f}")
    after.metric("Score after", f"{made.after.score:.0f}", gain(made.before.score, made.after.score))
    size.metric("File", f"{len(made.encoded.data) / 1024:.0f} KB")
    shown = jpeg_of(made.image, made.alpha if config.background == TRANSPARENT else None)
    compare(large_picture(store(), found.file["object_key"]), shown, what="Preview", key="preview_compare")
    steps = "  \n".join(plain(f"{planned.step}: {planned.why}") for planned in made.steps)
    st.markdown(steps or "No step was needed.")
    failed = [{"rule": rule.rule, "value": rule.value, "wanted": rule.wanted} for rule in made.rules if not rule.passed]
    show_rules(failed, config.profile)


def prior_boxes(objects: Sequence[Mapping[Any, Any]]) -> list[Box]:
    """The boxes (x1, y1, x2, y2) that help to find the product, as in a batch."""
    classes = box_classes(settings())
    return [
        (item["x1"], item["y1"], item["x2"], item["y2"])
        for item in objects
        if item["confidence"] >= settings().enhancement_box_confidence
        and (classes is None or item["class_name"] in classes)
    ]
