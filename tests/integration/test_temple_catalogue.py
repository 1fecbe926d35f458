"""Labelled pictures and models of temples in the catalogue, on both databases."""

import hashlib
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import TempleImageOrigin, TempleLease, TempleModelOrigin, TempleSplit
from imgpipe_dagster.catalogue.temple_images import (
    COMMON,
    Fate,
    NewPicture,
    TempleNameError,
    add_pictures,
    check_temple_id,
    count_pictures,
    fates,
    temple_ids,
    training_set,
)
from imgpipe_dagster.catalogue.temple_models import (
    NewVersion,
    NoModelError,
    TempleBusyError,
    TempleModelError,
    champion,
    end_lease,
    get_version,
    next_number,
    promote,
    register,
    renew_lease,
    rollback,
    take_lease,
    versions,
)

TRAIN, TEST = TempleSplit.TRAIN, TempleSplit.TEST


@pytest.fixture
def engine(database_url):
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


def digest(name):
    return hashlib.sha256(name.encode()).hexdigest()


def add(engine, temple, split, **categories):
    """Add pictures by name: ``add(engine, "hall", TRAIN, open="abc")`` adds three."""
    pictures = [
        NewPicture(digest(name), category, f"training/{temple}/{split}/{category}/{name}", 10)
        for category, names in categories.items()
        for name in names
    ]
    done = add_pictures(engine, temple, split, pictures, TempleImageOrigin.IMPORT)
    names = {digest(name): name for group in categories.values() for name in group}
    return {names[sha256]: fate for sha256, fate in done.items()}


def test_a_content_is_in_a_temple_once(engine):
    assert add(engine, "hall", TRAIN, open="ab", closed="c") == dict.fromkeys("abc", Fate.ADDED)
    assert add(engine, "hall", TRAIN, open="ad") == {"a": Fate.KNOWN, "d": Fate.ADDED}
    assert add(engine, "hall", TRAIN, closed="a") == {"a": Fate.OTHER_CATEGORY}
    assert add(engine, "hall", TEST, open="az") == {"a": Fate.IN_TRAINING, "z": Fate.ADDED}
    assert add(engine, "hall", TRAIN, open="z") == {"z": Fate.IN_TEST}
    assert add(engine, "gate", TEST, open="a") == {"a": Fate.ADDED}, "another temple is another matter"
    assert count_pictures(engine) == {
        "hall": {TRAIN: {"closed": 1, "open": 3}, TEST: {"open": 1}},
        "gate": {TEST: {"open": 1}},
    }
    assert fates(engine, "hall", TRAIN, [(digest("z"), "open"), (digest("new"), "open")]) == {
        digest("z"): Fate.IN_TEST,
        digest("new"): None,
    }


def test_what_is_common_joins_every_training_and_is_never_a_test_picture(engine):
    add(engine, "hall", TRAIN, open="ab")
    add(engine, "hall", TEST, open="t")
    assert add(engine, COMMON, TRAIN, nothing="xt") == {"x": Fate.ADDED, "t": Fate.IN_TEST}
    assert add(engine, "gate", TEST, open="x") == {"x": Fate.IN_TRAINING}
    with pytest.raises(TempleNameError, match="common"):
        add(engine, COMMON, TEST, nothing="y")
    found = training_set(engine, "hall")
    assert found.categories == ["nothing", "open"]
    assert [p.category for p in found.train] == ["nothing", "open", "open"]
    assert found.first().category == "open", "the temple's own pictures give the input its size"
    assert temple_ids(engine) == ["hall"], "common is no temple of its own"


def test_the_set_and_its_fingerprint_do_not_depend_on_the_order_of_adding(engine):
    add(engine, "one", TRAIN, open="ab", closed="c")
    add(engine, "two", TRAIN, closed="c", open="ba")
    one, two = training_set(engine, "one"), training_set(engine, "two")
    assert [p.sha256 for p in one.train] == [p.sha256 for p in two.train]
    assert one.fingerprint == two.fingerprint
    add(engine, "two", TEST, open="t")
    assert training_set(engine, "two").fingerprint != one.fingerprint


@pytest.mark.parametrize("name", ["Hall 3", "north/hall", "मंदिर", "étage", "a..b", "100% sure", "x" * 100, ".hidden"])
def test_names_of_all_kinds_are_taken(name):
    assert check_temple_id(name) == name


@pytest.mark.parametrize("name", ["", " ", " a", "../x", "a/../b", "/etc", "a//b", "..\\x", "x\n", "x" * 101, "\ud800"])
def test_names_that_lead_elsewhere_or_cannot_be_shown_are_refused(name):
    with pytest.raises(TempleNameError):
        check_temple_id(name)


def test_two_ways_of_writing_an_accent_are_one_name():
    assert check_temple_id("e\u0301tage") == check_temple_id("\u00e9tage")


def new_version(engine, temple="hall", name="v"):
    number = next_number(engine, temple)
    return NewVersion(
        temple_id=temple,
        version=f"{number}-{name}",
        number=number,
        origin=TempleModelOrigin.TRAINED,
        data_fingerprint=digest("data"),
        files={"model.onnx": {"object_key": "models/x", "sha256": digest("f"), "byte_size": 3}},
        labels=["closed", "open"],
        input_height=54,
        input_width=96,
        train_images=10,
        test_images=4,
        trained_seconds=1.5,
        metrics={"accuracy": 0.9, "unicode": "मंदिर"},
    )


def add_version(engine, *, over=None, win=True, owner=None, temple="hall"):
    own = owner or take_lease(engine, temple)
    new = new_version(engine, temple)
    try:
        took = register(engine, new, owner=own, verdict="Good.", promote_over=over, promote=win, by="test")
    finally:
        if owner is None:
            end_lease(engine, temple, own)
    return new.version, took


def test_versions_are_added_and_the_champion_is_followed_and_taken_back(engine):
    first, took = add_version(engine)
    assert took
    second, took = add_version(engine, over=first, win=False)
    assert (took, champion(engine, "hall").version) == (False, first)
    third, took = add_version(engine, over=first)
    assert (took, champion(engine, "hall").version, champion(engine, "hall").previous) == (True, third, first)
    assert [version.version for version in versions(engine, "hall")] == [first, second, third]
    assert get_version(engine, "hall", "2") == get_version(engine, "hall", second)
    assert get_version(engine, "hall", first).metrics == {"accuracy": 0.9, "unicode": "मंदिर"}
    assert rollback(engine, "hall", by="me").version == first
    with pytest.raises(NoModelError, match="no earlier champion"):
        rollback(engine, "hall", by="me")
    promoted = promote(engine, "hall", "2", by="me", why="I like it.")
    assert (promoted.version, promoted.previous, promoted.why) == (second, first, "I like it.")
    with pytest.raises(TempleModelError, match="serves already"):
        promote(engine, "hall", second, by="me", why="")
    with pytest.raises(NoModelError, match="'9'"):
        promote(engine, "hall", "9", by="me", why="")
    with pytest.raises(NoModelError):
        rollback(engine, "gate", by="me")


def test_a_champion_that_changed_meanwhile_is_not_overwritten(engine):
    first, _ = add_version(engine)
    second, _ = add_version(engine, over=first, win=False)
    promote(engine, "hall", second, by="somebody", why="")
    _, took = add_version(engine, over=first)
    assert (took, champion(engine, "hall").version) == (False, second)
    assert "changed meanwhile" in versions(engine, "hall")[-1].verdict


@pytest.mark.parametrize("beat", ["2020-01-01", "2100-01-01"], ids=["long ago", "before the clock was set back"])
def test_one_makes_a_model_at_a_time_and_the_lease_of_a_dead_one_is_taken_over(engine, beat):
    owner = take_lease(engine, "hall")
    with pytest.raises(TempleBusyError, match="hall"):
        take_lease(engine, "hall")
    other = take_lease(engine, "gate")
    assert renew_lease(engine, "hall", owner)
    with engine.begin() as connection:
        last = sa.text(f"'{beat} 00:00:00.000000'")
        connection.execute(sa.update(TempleLease).where(TempleLease.owner == owner).values(heartbeat_at=last))
    successor = take_lease(engine, "hall")
    assert not renew_lease(engine, "hall", owner)
    with pytest.raises(TempleBusyError, match="not kept"):
        add_version(engine, owner=owner)
    assert versions(engine, "hall") == []
    assert add_version(engine, owner=successor)[1]
    for temple, holder in (("hall", owner), ("hall", successor), ("gate", other)):
        end_lease(engine, temple, holder)
    assert take_lease(engine, "hall")


def test_of_many_who_want_the_lease_at_once_one_gets_it(engine):
    got, refused = [], []
    start = threading.Barrier(6)

    def want():
        start.wait()
        try:
            got.append(take_lease(engine, "hall"))
        except TempleBusyError as error:
            refused.append(error)

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)
