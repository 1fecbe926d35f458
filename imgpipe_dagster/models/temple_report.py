"""How good a temple's model is on test pictures that it never saw in training, and whether another is better."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from imgpipe_dagster.models.temple_classifier import TempleAnswer, TempleClassifier
from imgpipe_dagster.models.temple_input import LabelledPictures

MISCLASSIFIED_KEPT = 50
MOST_LUCK = 0.05
"""A model is doubted where guessing gets as many pictures right with a greater chance than this."""


@dataclass(frozen=True)
class Mistake:
    """A test picture that got another category than people gave it."""

    id: int
    category: str
    image_class: str
    class_confidence: float


@dataclass(frozen=True)
class UnknownScenes:
    """Test pictures of a category that the model was never shown, and how many of them it flagged as anomalies."""

    category: str
    pictures: int
    flagged: int


@dataclass(frozen=True)
class TestReport:
    """What a model made of the test pictures.

    Attributes:
        labels: The model's categories.
        pictures: Test pictures of these categories.
        correct: Of those, how many got their category.
        confusion: A row for each label by what people said, a column for each by what the model said, and a last
            column for no category.
        flagged: Of ``pictures``, how many were flagged as anomalies: false alarms.
        unknown: Test pictures of other categories, which should be flagged.
        mistakes: The surest ones first, at most ``MISCLASSIFIED_KEPT``.
    """

    __test__ = False  # pytest: a class whose name begins with Test is not always one

    labels: tuple[str, ...]
    pictures: int
    correct: int
    confusion: tuple[tuple[int, ...], ...]
    flagged: int
    unknown: tuple[UnknownScenes, ...] = ()
    mistakes: tuple[Mistake, ...] = field(default=(), repr=False)

    @property
    def accuracy(self) -> float | None:
        """Part of the pictures that got their category; None without pictures."""
        return self.correct / self.pictures if self.pictures else None

    @property
    def false_alarm_rate(self) -> float | None:
        """Part of the known pictures that were flagged; None without pictures."""
        return self.flagged / self.pictures if self.pictures else None

    @property
    def unknown_flagged_rate(self) -> float | None:
        """Part of the unknown pictures that were flagged; None without any."""
        total = sum(scenes.pictures for scenes in self.unknown)
        return sum(scenes.flagged for scenes in self.unknown) / total if total else None

    @property
    def doubt(self) -> str | None:
        """Why the model may be no better than guessing; see :func:`doubt_about`."""
        return doubt_about(self.labels, self.confusion)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, rates included."""
        rates = {name: getattr(self, name) for name in ("accuracy", "false_alarm_rate", "unknown_flagged_rate")}
        return {**rates, **asdict(self)}

    def to_json(self) -> bytes:
        """As ``test_report.json``."""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=1).encode()


def evaluate(classifier: TempleClassifier, test: LabelledPictures) -> TestReport:
    """Classify test pictures that have the classifier's format, and count."""
    return count_answers(classifier.info.labels, test, classifier.classify(test.pictures))


def count_answers(labels: Sequence[str], test: LabelledPictures, answers: Sequence[TempleAnswer]) -> TestReport:
    """Hold answers against what people said."""
    index = {label: number for number, label in enumerate(labels)}
    confusion = [[0] * (len(labels) + 1) for _ in labels]
    mistakes: list[Mistake] = []
    unknown: dict[str, list[bool]] = {}
    flagged = 0
    for picture_id, category, answer in zip(test.ids, test.categories, answers, strict=True):
        if category not in index:
            unknown.setdefault(category, []).append(answer.anomaly)
            continue
        confusion[index[category]][index.get(answer.image_class, len(labels))] += 1
        flagged += answer.anomaly
        if answer.image_class != category:
            mistakes.append(Mistake(picture_id, category, answer.image_class, answer.class_confidence))
    mistakes.sort(key=lambda mistake: (-mistake.class_confidence, mistake.id))
    return TestReport(
        labels=tuple(labels),
        pictures=sum(map(sum, confusion)),
        correct=sum(confusion[number][number] for number in range(len(labels))),
        confusion=tuple(map(tuple, confusion)),
        flagged=flagged,
        unknown=tuple(UnknownScenes(name, len(found), sum(found)) for name, found in sorted(unknown.items())),
        mistakes=tuple(mistakes[:MISCLASSIFIED_KEPT]),
    )


def doubt_about(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> str | None:
    """Why a model may be no better than guessing, as far as its test tells; None if it is better.

    Who always names the category with the most test pictures is right in that share of them. A model is doubted if,
    with that share as the chance of each picture, as many right ones as it has come by luck in more than ``MOST_LUCK``
    of all cases (the upper tail of the binomial distribution). So are models whose test has no pictures, or pictures
    of one category only.

    Args:
        labels: The model's categories.
        confusion: As in :class:`TestReport`.
    """
    counts = dict(zip(labels, map(sum, confusion), strict=False))
    total = sum(counts.values())
    if not total:
        return "Nobody knows how good it is: there are no test pictures of its categories."
    largest = max(counts, key=lambda label: counts[label])
    if counts[largest] == total:
        return f"Nobody knows how good it is: all {total} test pictures are of {largest}."
    right = sum(row[number] for number, row in enumerate(confusion))
    if _chance_of(right, total, counts[largest] / total) <= MOST_LUCK:
        return None
    told = f"it gets {right} of {total} test pictures right, and naming {largest} each time gets {counts[largest]}"
    return f"It may be no better than guessing: {told}."


def _chance_of(least: int, tries: int, share: float) -> float:
    """The chance of at least so many hits in so many tries: the upper tail of the binomial distribution."""
    hit, miss = math.log(share), math.log1p(-share)
    ways = math.lgamma(tries + 1)
    logarithms = (
        ways - math.lgamma(hits + 1) - math.lgamma(tries - hits + 1) + hits * hit + (tries - hits) * miss
        for hits in range(least, tries + 1)
    )
    return math.fsum(map(math.exp, logarithms))


@dataclass(frozen=True)
class Verdict:
    """Whether a new model takes the place of the one that serves, and why (not)."""

    promote: bool
    why: str


def compare(challenger: TestReport, champion: TestReport | None) -> Verdict:
    """Decide on the same test pictures: a new model must not be worse than the one that serves.

    A category that only one of the two knows counts as wrong for the other: what is compared is how many of all test
    pictures each gets right.

    Args:
        challenger: The new model's report.
        champion: That of the model which serves, on the same pictures; None if there is none.
    """
    doubt = f" {challenger.doubt}" if challenger.doubt else ""
    if champion is None:
        return Verdict(True, f"It is the first model of this temple.{doubt}")
    if not challenger.pictures and not champion.pictures:
        return Verdict(False, "There are no test pictures to compare it on: add some, or promote it yourself.")
    told = f"of the same test pictures it gets {challenger.correct} right, the champion {champion.correct}"
    if challenger.correct < champion.correct:
        return Verdict(False, f"It is worse: {told}.")
    return Verdict(True, f"It is not worse: {told}.{doubt}")
