"""Times as clients have them, with a zone, and as the catalogue has them, in UTC without one."""

import datetime as dt

from imgpipe_dagster.api.problems import Code, Refusal


def utc(time: dt.datetime) -> dt.datetime:
    """A time of the catalogue for a client."""
    return time.replace(tzinfo=dt.UTC)


def naive_utc(time: dt.datetime | None) -> dt.datetime | None:
    """A client's time as the catalogue compares it.

    Raises:
        Refusal: 422, as it is beyond what can be reckoned with.
    """
    if time is None:
        return None
    try:
        return time.astimezone(dt.UTC).replace(tzinfo=None)
    except OverflowError as error:
        raise Refusal(Code.INVALID_REQUEST, "The time is beyond what can be reckoned with.") from error
