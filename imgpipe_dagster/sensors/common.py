"""What the sensors share: saying that the catalogue is away. No decisions."""

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError


def catalogue_skip(error: SQLAlchemyError) -> dg.SkipReason:
    """A failed read is not an empty source: say so, and try again on the next tick."""
    original = getattr(error, "orig", None) or error
    reason = str(original).splitlines()[0][:300]
    return dg.SkipReason(f"The catalogue cannot be used: {reason}. If its schema is missing or old: imgpipe db upgrade")
