"""Which files of a watched folder are whole, as a table of histories."""

from pathlib import Path

from imgpipe_dagster.sources.settling import Settling, Size

A, B = Path("a.jpg"), Path("b.jpg")


def test_a_file_that_nobody_writes_is_given_once_when_it_has_not_changed_for_a_while():
    settling = Settling(settle_s=2, open_limit_s=60)
    settling.notice(A, Size(10, 1), 0)
    assert [settling.due(at) for at in (0, 1.9)] == [[], []]
    settling.notice(A, Size(20, 2), 1.9)
    assert [settling.due(at) for at in (3.8, 3.9, 9)] == [[], [A], []]
    settling.notice(A, Size(20, 2), 10)
    assert settling.due(99) == [], "it stays in the folder, unchanged"
    settling.notice(A, Size(30, 3), 100)
    assert settling.due(102) == [A]


def test_a_file_that_is_being_written_waits_for_its_close_however_slow_the_writer():
    settling = Settling(settle_s=2, open_limit_s=60)
    settling.notice(A, Size(10, 1), 0)
    settling.opened(A)
    assert settling.due(59) == []
    settling.notice(A, Size(20, 2), 59)
    assert settling.due(100) == []
    settling.closed(A)
    assert settling.due(100) == [A]


def test_a_close_that_was_never_seen_is_waited_for_in_vain_only_so_long():
    settling = Settling(settle_s=2, open_limit_s=60)
    settling.notice(A, Size(10, 1), 0)
    settling.opened(A)
    assert settling.due(60) == [A]


def test_a_file_that_was_moved_here_is_whole_at_once():
    settling = Settling()
    settling.notice(B, Size(10, 1), 0)
    settling.notice(A, Size(10, 1), 0)
    settling.closed(A)
    settling.closed(B)
    assert settling.due(0) == [A, B]


def test_a_file_that_changes_after_its_close_is_not_whole():
    settling = Settling(settle_s=2)
    settling.notice(A, Size(10, 1), 0)
    settling.closed(A)
    settling.notice(A, Size(20, 2), 0.5)
    assert settling.due(0.5) == []
    assert settling.due(2.5) == [A]


def test_a_file_that_is_taken_away_is_forgotten():
    settling = Settling(settle_s=2)
    settling.notice(A, Size(10, 1), 0)
    settling.notice(A, None, 1)
    assert (settling.due(9), settling.waiting()) == ([], [])
    settling.closed(A)
    settling.opened(A)
    assert settling.waiting() == []


def test_a_file_that_did_not_look_whole_is_given_again_later_or_when_it_is_closed():
    settling = Settling(settle_s=0, open_limit_s=60)
    settling.notice(A, Size(10, 1), 0)
    assert settling.due(0) == [A]
    settling.postpone(A)
    assert settling.waiting() == [A]
    assert settling.due(0) == []
    settling.closed(A)
    assert settling.due(0) == [A]
