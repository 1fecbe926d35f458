"""What may be published without a person, as tables of cases, and which picture a person sees first."""

import pytest

from imgpipe_dagster.imaging.verdict import ReviewPolicy, judge_enhancement

POLICY = ReviewPolicy(threshold=75, high_value=1000, audit_share=0)


def judge(score, found=(), *, value=None, policy=POLICY, image_id=1, sha256="ab"):
    return judge_enhancement(score, found, value=value, image_id=image_id, sha256=sha256, policy=policy)


@pytest.mark.parametrize(
    ("score", "found", "value", "reasons"),
    [
        (75.1, [], None, ()),
        (100, [], 999.99, ()),
        (75, [], None, ("low_score",)),
        (0, [], None, ("low_score",)),
        (90, ["mask_torn"], None, ("mask_torn",)),
        (90, [], 1000, ("high_value",)),
        (60, ["profile_min_fill"], 5000, ("profile_min_fill", "low_score", "high_value")),
        (None, ["corrupt"], None, ("corrupt",)),
    ],
)
def test_each_case_has_its_verdict(score, found, value, reasons):
    verdict = judge(score, found, value=value)
    assert (verdict.approved, verdict.reasons, verdict.audited) == (not reasons, reasons, False)


def test_what_has_no_picture_is_never_approved():
    assert not judge(None).approved


def test_three_in_a_hundred_of_those_that_would_pass_are_audited_and_always_the_same():
    policy = ReviewPolicy(audit_share=0.03)
    verdicts = [judge(90, policy=policy, image_id=n, sha256=f"{n:x}") for n in range(5000)]
    audited = [verdict for verdict in verdicts if verdict.audited]
    assert 0.02 < len(audited) / len(verdicts) < 0.04
    assert {(verdict.approved, verdict.reasons) for verdict in audited} == {(False, ("audit",))}
    assert verdicts == [judge(90, policy=policy, image_id=n, sha256=f"{n:x}") for n in range(5000)]
    assert verdicts != [judge(90, policy=policy, image_id=n, sha256=f"a{n:x}") for n in range(5000)]


def test_a_picture_that_is_reviewed_anyway_is_no_audit():
    everything = ReviewPolicy(audit_share=1)
    assert judge(90, policy=everything).audited
    assert not judge(60, policy=everything).audited
    assert not judge(90, value=2000, policy=everything).audited


def test_what_a_person_has_rejected_before_is_seen_by_a_person_again():
    verdict = judge_enhancement(99, (), value=None, image_id=1, sha256="ab", policy=POLICY, reworked=True)
    assert (verdict.approved, verdict.reasons, verdict.audited) == (False, ("reworked",), False)


def test_the_queue_begins_with_the_uncertain_and_the_valuable():
    def priority(score, value=None):
        return judge(score, ["mask_torn"], value=value).priority

    assert priority(75) == 1
    assert priority(75) > priority(70) > priority(50) > priority(20)
    assert priority(80) == pytest.approx(priority(70))
    assert priority(50, 10) < priority(50, 1000) < priority(50, 50_000)
    assert priority(50, 1000) == pytest.approx(0.75 + 0.5)
    assert priority(75, 1e12) <= 2
    assert priority(None) == 0
    assert priority(50, -5) == priority(50)
    assert judge(90).priority == 0


@pytest.mark.parametrize("wrong", [{"threshold": 101}, {"high_value": 0}, {"audit_share": 1.5}, {"audit_share": -0.1}])
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="A review policy needs"):
        ReviewPolicy(**wrong)
