"""Lines of the log as JSON."""

import io
import json
import logging

import pytest

from imgpipe_dagster.logs import JsonFormatter, about


@pytest.fixture
def lines():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("imgpipe_dagster.test_logs")
    log.addHandler(handler)
    log.setLevel("INFO")
    yield log, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(handler)


def test_a_line_says_what_it_is_about_and_no_line_after_it(lines):
    log, read = lines
    with about(batch="20261120-000042", attempt=2, request=None):
        log.info("%d of %d", 1, 2)
        with about(image=7):
            log.warning("bad", extra={"image": 8})
            log.warning("worse")
    log.info("done")
    first, second, third, last = read()
    assert (first["message"], first["level"], first["logger"]) == ("1 of 2", "INFO", "imgpipe_dagster.test_logs")
    assert (first["batch"], first["attempt"]) == ("20261120-000042", 2)
    assert "request" not in first
    assert (second["image"], second["batch"]) == (8, "20261120-000042")
    assert third["image"] == 7
    assert not {"batch", "attempt", "image"} & set(last)


def test_an_error_stays_one_line_with_its_stack(lines):
    log, read = lines
    try:
        int("two\nlines")
    except ValueError:
        log.exception("it\nfailed")
    (line,) = read()
    assert line["message"] == "it\nfailed"
    assert "ValueError: invalid literal" in line["error"]
    assert line["time"].endswith("+00:00")


def test_a_line_is_about_nothing_else():
    with pytest.raises(ValueError, match="not about colour"), about(colour="red"):
        pass
