"""The demo's alarm, without the demo around it: a stale mail, and its recovery once there is a prediction."""

import mailbox

import sqlalchemy as sa
from rich.console import Console

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import ImagePrediction, ProductImage
from imgpipe_dagster.demo import alarm
from imgpipe_dagster.settings import Settings


def test_waiting_images_raise_the_alarm_and_a_prediction_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(alarm, "WINDOW_S", 0.3)
    settings = Settings(home=tmp_path, smtp_url=f"maildir://{tmp_path}/mails", disk_low_gib=0)
    engine = connect(settings.catalogue_url)
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(ProductImage).values(image_url="http://127.0.0.1/a.jpg"))
    alarm.raise_alarm(settings, engine)
    with engine.begin() as connection:
        row = {"batch_key": "b", "image_id": 1, "status": "predicted", "object_count": 0}
        connection.execute(sa.insert(ImagePrediction).values(row))
    alarm.clear_alarm(settings, engine)
    subjects = sorted(str(message["Subject"]) for message in mailbox.Maildir(tmp_path / "mails"))
    assert subjects[0].startswith("[imgpipe] No prediction yet, though images have waited for")
    assert subjects[1:] == ["[imgpipe] Predictions are fresh again"]
    shown = Console(width=200, record=True)
    alarm.print_mails(settings, shown)
    assert "Predictions are fresh again" in shown.export_text()
    engine.dispose()
