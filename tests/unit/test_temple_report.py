"""Counting what a model says of test pictures, and the rule by which a new one takes over."""

import json

import numpy as np
import pytest

from imgpipe_dagster.models.temple_classifier import NO_CATEGORY, TempleAnswer
from imgpipe_dagster.models.temple_input import LabelledPictures
from imgpipe_dagster.models.temple_report import TestReport as Report
from imgpipe_dagster.models.temple_report import UnknownScenes, compare, count_answers

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
    return Report(LABELS, pictures, correct, (), 0, (UnknownScenes("x", unknown, 0),) if unknown else ())


@pytest.mark.parametrize(
    ("challenger", "champion", "promoted", "told"),
    [
        (report(0, 0), None, True, "first model"),
        (report(8, 10), report(8, 10), True, "not worse: 8 of 10"),
        (report(9, 10), report(8, 10), True, "not worse: 9 of 10"),
        (report(7, 10), report(8, 10), False, "worse: 7 of 10 test pictures right, the champion 8"),
        (report(0, 0), report(0, 0), False, "no test pictures"),
        (report(9, 10), report(6, 6, unknown=4), True, "not worse"),  # the champion does not know a new category
        (report(5, 6, unknown=4), report(7, 10), False, "worse: 5 of 10"),  # the challenger has forgotten one
    ],
)
def test_a_new_model_takes_over_only_if_it_is_not_worse_on_the_same_pictures(challenger, champion, promoted, told):
    verdict = compare(challenger, champion)
    assert verdict.promote is promoted
    assert told in verdict.why
