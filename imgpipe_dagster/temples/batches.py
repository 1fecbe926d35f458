"""What temples' champions say of many images of the catalogue: one load and one pass for each temple."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.temple_models import NoModelError
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.models.temple_classifier import ModelFileError, TempleAnswer
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.streaming import read_all
from imgpipe_dagster.temples.registry import ModelFileChangedError, classifier_of, find_version


@dataclass(frozen=True)
class ImageOfTemple:
    """A valid image that belongs to a temple, and where its bytes lie."""

    image_id: int
    temple_id: str
    object_key: str


@dataclass(frozen=True)
class ImageAnswer:
    """What a temple's champion says of an image; nothing if there is none.

    Attributes:
        image: The image.
        version: The champion.
        answer: What it says.
        problem: Why the temple's champion cannot be used, if that is why there is no answer.
    """

    image: ImageOfTemple
    version: str | None = None
    answer: TempleAnswer | None = None
    problem: str | None = None


def classify_images(engine: Engine, store: ImageStore, images: Sequence[ImageOfTemple]) -> Iterator[ImageAnswer]:
    """Classify images by the champions of their temples, streaming; a temple without one gives no answers.

    A champion whose files were changed is not loaded: its temple has no model until another is promoted.

    Yields:
        One for each image, temple by temple, in no promised order.

    Raises:
        DecodeError: A file cannot be decoded; a note names its image. Validated files do not end here.
        ObjectNotFoundError: The bytes of an image are gone.
        StoreError: The store cannot be read.
    """
    by_temple: dict[str, list[ImageOfTemple]] = {}
    for image in images:
        by_temple.setdefault(image.temple_id, []).append(image)
    for temple, own in sorted(by_temple.items()):
        try:
            version = find_version(engine, temple)
            classifier = classifier_of(store, version)
        except NoModelError:
            yield from map(ImageAnswer, own)
            continue
        except (ModelFileChangedError, ModelFileError) as error:
            yield from (ImageAnswer(image, problem=str(error)) for image in own)
            continue
        files = read_all(store, ((image, image.object_key) for image in own))
        for image, found in classifier.classify_files(files):
            if isinstance(found, DecodeError):
                found.add_note(f"image {image.image_id}")
                raise found
            yield ImageAnswer(image, version.version, found)
