"""Getting bytes from the network: one polite, bounded, guarded HTTP client. No dagster, no SQL."""

from imgpipe_dagster.fetch.answers import FetchRequest, FetchResult
from imgpipe_dagster.fetch.client import fetch_all
from imgpipe_dagster.fetch.policy import FetchPolicy

__all__ = ["FetchPolicy", "FetchRequest", "FetchResult", "fetch_all"]
