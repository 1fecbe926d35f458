"""Labelled pictures of temples: which there are, and which may be added. Bytes and files are elsewhere.

A content is in one temple once. So a picture that tests a model was never in its training, and what the older system
called ``common`` (categories that join every temple's training) is held to the same rule.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import TempleImage, TempleImageOrigin, TempleModelVersion, TempleSplit
from imgpipe_dagster.catalogue.types import insert_or_ignore
from imgpipe_dagster.streams import chunks

COMMON = "common"
"""The temple whose categories join the training of every other."""

_NO_CATEGORIES = frozenset({"anomalies", "no category (anomaly)"})  # where and as what unknown pictures are sorted
_LONGEST_NAME = 100
_CHUNK = 500
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class TempleNameError(ValueError):
    """A text cannot be the name of a temple or a category; the message says why."""


class Fate(StrEnum):
    """What became of a picture that somebody wanted to add."""

    ADDED = "added"
    KNOWN = "known"  # it is there already, in this category
    OTHER_CATEGORY = "other_category"
    IN_TEST = "in_test"  # refused: training would see a test picture
    IN_TRAINING = "in_training"  # refused: the same the other way round


@dataclass(frozen=True)
class NewPicture:
    """A picture to add; its bytes are in the store under ``object_key``."""

    sha256: str
    category: str
    object_key: str
    byte_size: int
    image_id: int | None = None


@dataclass(frozen=True)
class TemplePicture:
    """One labelled picture."""

    id: int
    temple_id: str
    split: TempleSplit
    category: str
    object_key: str
    sha256: str


@dataclass(frozen=True)
class TrainingSet:
    """What a model of a temple is trained and tested on.

    Attributes:
        temple_id: The temple.
        train: Its own pictures and those of ``common``, by category and then by content: an order without chance.
        test: The frozen ones, in the same order.
        leaked: Contents that were both; they are left out of ``train``.
        labels: Training pictures that there were, those left out and those that ``common`` has as well included.
    """

    temple_id: str
    train: tuple[TemplePicture, ...]
    test: tuple[TemplePicture, ...]
    leaked: int = 0
    labels: int = 0

    @property
    def categories(self) -> list[str]:
        """The categories that there are training pictures of."""
        return sorted({picture.category for picture in self.train})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all contents and their categories: equal sets, and no others, have the same."""
        parts = [sorted((p.category, p.sha256) for p in split) for split in (self.train, self.test)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def first(self) -> TemplePicture | None:
        """The picture that gives the input its size: of the lowest category and content among the temple's own."""
        return next((p for p in self.train if p.temple_id == self.temple_id), self.train[0] if self.train else None)


def composed(text: str) -> str:
    """A name in Unicode's composed form, in which names are stored; some keyboards and file systems give another."""
    return unicodedata.normalize("NFC", text)


def check_temple_id(text: str) -> str:
    """A temple's id as it is stored: Unicode in its composed form.

    Raises:
        TempleNameError: It is empty, too long, unprintable, or reads like a path that leads elsewhere.
    """
    return _checked(text, "temple id")


def check_category(text: str) -> str:
    """A category's name as it is stored; the rules are those of temple ids.

    Raises:
        TempleNameError: It breaks one of them, or is a name that pictures of no category get.
    """
    name = _checked(text, "category")
    if name.casefold() in _NO_CATEGORIES:
        raise TempleNameError(f"{text!r} is what pictures of no category are called: give the category another name.")
    return name


def fates(
    engine: Engine, temple_id: str, split: TempleSplit, pictures: Iterable[tuple[str, str]]
) -> dict[str, Fate | None]:
    """What would become of contents if they were added now; None where they may be.

    Args:
        engine: The catalogue.
        temple_id: Where to.
        split: What for.
        pictures: Content (SHA-256) and category.
    """
    wanted = dict(pictures)

    def look(connection: Connection) -> dict[str, Fate | None]:
        return {
            sha256: fate
            for some in chunks(list(wanted), _CHUNK)
            for sha256, fate in _fates(connection, temple_id, split, {s: wanted[s] for s in some}).items()
        }

    return transact(engine, look, writes=False)


def add_pictures(
    engine: Engine, temple_id: str, split: TempleSplit, pictures: Sequence[NewPicture], origin: TempleImageOrigin
) -> dict[str, Fate]:
    """Add pictures whose bytes are in the store: what became of each content, by SHA-256.

    Raises:
        TempleNameError: Test pictures cannot be common to all temples.
    """
    if temple_id == COMMON and split is TempleSplit.TEST:
        raise TempleNameError(f"{COMMON!r} joins the training of every temple; test pictures belong to one temple.")

    def add(connection: Connection, some: Sequence[NewPicture]) -> dict[str, Fate]:
        wanted = {picture.sha256: picture for picture in some}
        before = _fates(connection, temple_id, split, {sha256: p.category for sha256, p in wanted.items()})
        rows = [
            {
                "temple_id": temple_id,
                "split": split.value,
                "category": picture.category,
                "object_key": picture.object_key,
                "sha256": sha256,
                "byte_size": picture.byte_size,
                "origin": origin.value,
                "image_id": picture.image_id,
            }
            for sha256, picture in wanted.items()
            if before[sha256] is None
        ]
        if rows:
            connection.execute(insert_or_ignore(TempleImage), rows)  # somebody else may be adding the same
        mine = [row["object_key"] for row in rows]
        stored = set(
            connection.scalars(
                sa.select(TempleImage.sha256).where(
                    TempleImage.temple_id == temple_id, TempleImage.object_key.in_(mine)
                )
            )
        )
        after = _fates(connection, temple_id, split, {s: wanted[s].category for s, f in before.items() if f is None})
        return {
            sha256: fate or (Fate.ADDED if sha256 in stored else after[sha256] or Fate.KNOWN)
            for sha256, fate in before.items()
        }

    done: dict[str, Fate] = {}
    for some in chunks(pictures, _CHUNK):
        done |= transact(engine, lambda connection, some=some: add(connection, some))
    return done


def training_set(engine: Engine, temple_id: str) -> TrainingSet:
    """What a model of a temple would be trained and tested on now."""
    pictures = sorted(
        _pictures(engine, TempleImage.temple_id.in_([temple_id, COMMON])),
        key=lambda p: (p.category, p.sha256, p.temple_id == COMMON),
    )
    test = tuple(p for p in pictures if p.split is TempleSplit.TEST)
    tested = {p.sha256 for p in test}
    train: dict[str, TemplePicture] = {}
    leaked = 0
    for picture in pictures:
        if picture.split is not TempleSplit.TRAIN:
            continue
        if picture.sha256 in tested:
            leaked += 1
        elif picture.sha256 not in train or picture.temple_id == temple_id:
            train[picture.sha256] = picture  # the temple's own word counts above the common one
    chosen = tuple(sorted(train.values(), key=lambda p: (p.category, p.sha256)))
    return TrainingSet(temple_id, chosen, test, leaked, labels=len(pictures) - len(test))


def pictures_of(engine: Engine, ids: Collection[int]) -> list[TemplePicture]:
    """Labelled pictures by their ids; those that are not there are left out."""
    return sorted(_pictures(engine, TempleImage.id.in_(ids)), key=lambda picture: picture.id)


def list_pictures(
    engine: Engine, temple_id: str, split: TempleSplit, *, category: str | None, before: int | None, at_most: int
) -> list[TemplePicture]:
    """Labelled pictures of a temple, the youngest first.

    Args:
        engine: The catalogue.
        temple_id: The temple.
        split: What they are for.
        category: Only those of this category.
        before: Only those whose id is lower: where the page before ended.
        at_most: How many.
    """
    which = sa.and_(TempleImage.temple_id == temple_id, TempleImage.split == split.value)
    if category is not None:
        which &= TempleImage.category == category
    if before is not None:
        which &= TempleImage.id < before
    return _pictures(engine, which, newest=at_most)


def _pictures(engine: Engine, which: sa.ColumnElement[bool], *, newest: int | None = None) -> list[TemplePicture]:
    columns = (
        TempleImage.id,
        TempleImage.temple_id,
        TempleImage.split,
        TempleImage.category,
        TempleImage.object_key,
        TempleImage.sha256,
    )
    query = sa.select(*columns).where(which)
    if newest is not None:
        query = query.order_by(TempleImage.id.desc()).limit(newest)
    rows = transact(engine, lambda connection: connection.execute(query).all(), writes=False)
    return [
        TemplePicture(id_, temple, TempleSplit(split), category, key, sha256)
        for id_, temple, split, category, key, sha256 in rows
    ]


def correct_label(engine: Engine, picture_id: int, category: str) -> bool:
    """Give a labelled picture another category, in training or test; False if there is no such picture.

    Models that were made before stay as they are: the next contest measures all on the corrected pictures.

    Raises:
        TempleNameError: The category's name cannot be taken.
    """
    change = sa.update(TempleImage).where(TempleImage.id == picture_id).values(category=check_category(category))
    return bool(transact(engine, lambda connection: connection.execute(change).rowcount))


def temple_ids(engine: Engine) -> list[str]:
    """Every temple that has pictures or a model, ``common`` left out."""
    query = sa.union(sa.select(TempleImage.temple_id), sa.select(TempleModelVersion.temple_id))
    found = transact(engine, lambda connection: connection.scalars(query).all(), writes=False)
    return sorted(temple for temple in found if temple != COMMON)


def count_pictures(engine: Engine, temple_id: str | None = None) -> dict[str, dict[TempleSplit, dict[str, int]]]:
    """How many pictures there are, by temple, split and category; of one temple only, if it is named."""
    columns = TempleImage.temple_id, TempleImage.split, TempleImage.category
    query = sa.select(*columns, sa.func.count()).group_by(*columns).order_by(*columns)
    if temple_id is not None:
        query = query.where(TempleImage.temple_id == temple_id)
    found: dict[str, dict[TempleSplit, dict[str, int]]] = {}
    for temple, split, category, count in transact(engine, lambda c: c.execute(query).all(), writes=False):
        found.setdefault(temple, {}).setdefault(TempleSplit(split), {})[category] = count
    return found


def _checked(text: str, what: str) -> str:
    name = composed(text)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise TempleNameError(f"The {what} {text!r} is not valid Unicode.") from error
    if not name.strip() or name != name.strip():
        raise TempleNameError(f"The {what} {text!r} is empty, or begins or ends with a blank.")
    if len(name) > _LONGEST_NAME:
        raise TempleNameError(f"The {what} {text[:20]!r}… has {len(name)} characters; {_LONGEST_NAME} are taken.")
    if _UNPRINTABLE.search(name):
        raise TempleNameError(f"The {what} {text!r} has characters that cannot be printed.")
    if any(part in {"", ".", ".."} for part in re.split(r"[/\\]", name)):
        raise TempleNameError(f"The {what} {text!r} reads like a path that leads elsewhere.")
    return name


def _fates(
    connection: Connection, temple_id: str, split: TempleSplit, wanted: dict[str, str]
) -> dict[str, Fate | None]:
    found: dict[str, Fate | None] = dict.fromkeys(wanted)
    if not wanted:
        return found
    columns = TempleImage.sha256, TempleImage.temple_id, TempleImage.split, TempleImage.category
    rows: Sequence[Any] = connection.execute(sa.select(*columns).where(TempleImage.sha256.in_(wanted))).all()
    for sha256, temple, kept_for, category in rows:
        own = temple == temple_id
        if not own and COMMON not in (temple, temple_id):
            continue  # another temple's picture is its own affair
        if kept_for != split:
            found[sha256] = Fate.IN_TEST if kept_for == TempleSplit.TEST else Fate.IN_TRAINING
        elif own and found[sha256] is None:
            found[sha256] = Fate.KNOWN if category == wanted[sha256] else Fate.OTHER_CATEGORY
    return found
