"""Counting what a model says of test pictures, and the rule by which a new one takes over."""

import json

import numpy as np
import pytest

from imgpipe_dagster.models.temple_classifier import NO_CATEGORY, TempleAnswer
from imgpipe_dagster.models.temple_input import LabelledPictures
from imgpipe_dagster.models.temple_report import TestReport as Report
from imgpipe_dagster.models.temple_report import UnknownScenes, compare, count_answers, doubt_about

LABELS = ("closed", "open")


def answer(image_class, confidence=0.9, anomaly=False):
    return TempleAnswer(image_class, confidence, {}, confidence, None, anomaly)


def test_every_test_picture_is_counted_where_it_belongs():
    said = [
        ("closed", answer("closed")),
        ("closed", answer("open", 0.6)),
        ("open", answer("open", anomaly=True)),
        ("open", answer(NO_CATEGORY, 0.4, anomaly=True)),
        ("open", answer("closed", 0.99)),
        ("wall", answer("open", anomaly=True)),
        ("wall", answer("closed")),
    ]
    pictures = np.zeros((len(said), 32, 32, 3), np.uint8)
    test = LabelledPictures(tuple(range(10, 17)), tuple(category for category, _ in said), pictures)
    report = count_answers(LABELS, test, [found for _, found in said])
    assert report.confusion == ((1, 1, 0), (1, 1, 1))
    assert (report.pictures, report.correct, report.flagged) == (5, 2, 2)
    assert report.unknown == (UnknownScenes("wall", 2, 1),)
    assert [(mistake.id, mistake.image_class) for mistake in report.mistakes] == [
        (14, "closed"),
        (11, "open"),
        (13, NO_CATEGORY),
    ]
    assert (report.accuracy, report.false_alarm_rate, report.unknown_flagged_rate) == (0.4, 0.4, 0.5)
    assert json.loads(report.to_json())["accuracy"] == 0.4


def test_without_pictures_there_are_no_rates():
    report = count_answers(LABELS, LabelledPictures((), (), np.zeros((0, 32, 32, 3), np.uint8)), [])
    assert (report.accuracy, report.false_alarm_rate, report.unknown_flagged_rate) == (None, None, None)


def report(correct, pictures, unknown=0):
    """Right in ``correct`` of as many pictures of either category; the wrong ones got no category."""
    wrong = [pictures // 2, pictures - pictures // 2]
    right = [min(correct // 2, wrong[0]), correct - min(correct // 2, wrong[0])]
    confusion = ((right[0], 0, wrong[0] - right[0]), (0, right[1], wrong[1] - right[1]))
    return Report(LABELS, pictures, correct, confusion, 0, (UnknownScenes("x", unknown, 0),) if unknown else ())


@pytest.mark.parametrize(
    ("challenger", "champion", "promoted", "told"),
    [
        (report(10, 10), None, True, "It is the first model of this temple."),
        (report(0, 0), None, True, "It is the first model of this temple. Nobody knows how good it is"),
        (
            report(9, 10),
            report(9, 10),
            True,
            "not worse: of the same test pictures it gets 9 right, the champion 9.",
        ),
        (
            report(10, 10),
            report(8, 10),
            True,
            "not worse: of the same test pictures it gets 10 right, the champion 8.",
        ),
        (report(5, 10), report(4, 10), True, "It may be no better than guessing: it gets 5 of 10 test pictures right"),
        (
            report(7, 10),
            report(8, 10),
            False,
            "is worse: of the same test pictures it gets 7 right, the champion 8.",
        ),
        (report(0, 0), report(0, 0), False, "no test pictures"),
        (
            report(0, 0, unknown=4),
            report(0, 0, unknown=4),
            False,
            "no test pictures",
        ),  # none can be right
        (report(9, 10), report(6, 6, unknown=4), True, "not worse"),  # the champion does not know a new category
        (report(5, 6, unknown=4), report(7, 10), False, "worse: "),  # the challenger has forgotten one
    ],
)
def test_a_new_model_takes_over_only_if_it_is_not_worse_on_the_same_pictures(challenger, champion, promoted, told):
    verdict = compare(challenger, champion)
    assert verdict.promote is promoted
    assert told in verdict.why


@pytest.mark.parametrize(
    ("confusion", "told"),
    [
        ([], "no test pictures"),
        ([[0, 0, 0], [0, 0, 0]], "no test pictures"),
        ([[9, 0, 0], [0, 0, 0]], "all 9 test pictures are of closed"),
        ([[1, 0, 0], [0, 1, 0]], "it gets 2 of 2 test pictures right, and naming closed each time gets 1."),
        ([[2, 0, 0], [0, 2, 0]], "it gets 4 of 4"),  # luck in 1 of 16
        ([[3, 0, 0], [0, 2, 0]], "it gets 5 of 5"),  # the largest has three fifths: luck in 1 of 13
        ([[3, 0, 0], [0, 3, 0]], None),
        ([[5, 5, 0], [3, 7, 0]], "it gets 12 of 20"),
        ([[7, 3, 0], [2, 8, 0]], None),  # 15 of 20: luck in 1 of 48
        ([[93, 2, 0], [3, 2, 0]], "it gets 95 of 100 test pictures right, and naming closed each time gets 95."),
        ([[95, 0, 0], [0, 5, 0]], None),
        ([[0, 0, 900], [0, 0, 900]], "it gets 0 of 1800"),
        ([[500, 400, 0], [400, 500, 0]], None),  # hardly better, but surely
    ],
)
def test_a_model_that_luck_could_have_made_is_doubted(confusion, told):
    doubt = doubt_about(LABELS, confusion)
    assert doubt is None if told is None else told in doubt
