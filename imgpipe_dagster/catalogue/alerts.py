"""The outbox of alerts: writing them. They are written in the transaction of what they tell about, so none is lost."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imgpipe_dagster.catalogue.tables import Alert


def write_alert(connection: Connection, *, kind: str, subject: str, body: str, dedupe_key: str | None = None) -> bool:
    """Put an alert in the outbox.

    Args:
        connection: The transaction that the alert belongs to.
        kind: What happened, as a code (``batch_failed``, ``check_failed`` …).
        subject: One line for people.
        body: What happened and what to do.
        dedupe_key: An alert with a key that was used before is not written again.

    Returns:
        Whether a row was written.
    """
    if dedupe_key is not None and connection.scalar(sa.select(Alert.id).where(Alert.dedupe_key == dedupe_key)):
        return False
    connection.execute(sa.insert(Alert).values(kind=kind, subject=subject[:255], body=body, dedupe_key=dedupe_key))
    return True
