"""What the sensors share: saying that the catalogue is away. No decisions."""

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.engine import describe_error


def catalogue_skip(error: SQLAlchemyError) -> dg.SkipReason:
    """A failed read is not an empty source: say so, and try again on the next tick."""
    advice = "If its schema is missing or old: imgpipe db upgrade"
    return dg.SkipReason(f"The catalogue cannot be used: {describe_error(error)}. {advice}")
