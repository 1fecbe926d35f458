"""Before the other services start: the bucket, the schema and Dagster's home. It may run any number of times."""

import time

from botocore.exceptions import BotoCoreError, ClientError

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.instance import prepare_dagster_home
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.store.s3 import s3_client

_PATIENCE_S = 120


def main() -> None:
    """Make what is missing."""
    settings = Settings()
    if settings.effective_store_url.startswith("s3://"):
        _make_bucket(settings, settings.effective_store_url.removeprefix("s3://").partition("/")[0])
    engine = connect(settings.catalogue_url)
    schema.upgrade(engine)
    engine.dispose()
    prepare_dagster_home(settings)


def _make_bucket(settings: Settings, name: str) -> None:
    client = s3_client(settings.s3_endpoint_url, settings.s3_region)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            client.create_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise
            return
        except BotoCoreError:  # the server is not up yet
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    main()
