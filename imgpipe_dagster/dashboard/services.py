"""What the pages work with: settings, catalogue, store. Opened once for all visitors."""

import streamlit as st
from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.engine import connect, patient
from imgpipe_dagster.catalogue.schema import require_current
from imgpipe_dagster.configured import validation_limits
from imgpipe_dagster.imaging.validate import Validator
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.opening import open_store_at

_WAIT_S = 5.0  # somebody who looks at a page is told that the catalogue is away rather than kept waiting


@st.cache_resource(show_spinner=False)
def settings() -> Settings:
    """This installation's settings."""
    return Settings()


@st.cache_resource(show_spinner=False)
def engine() -> Engine:
    """The catalogue, whose schema is up to date.

    Raises:
        CatalogueError: It is not, and what to do.
    """
    opened = connect(settings().catalogue_url)
    require_current(opened)
    return patient(opened, _WAIT_S)


@st.cache_resource(show_spinner=False)
def validator() -> Validator:
    """Looks at files of unknown origin, in child processes; for as long as this process lives."""
    return Validator(validation_limits(settings())).__enter__()


@st.cache_resource(show_spinner=False)
def store() -> ImageStore:
    """Where bytes live."""
    found = settings()
    return open_store_at(found.effective_store_url, endpoint_url=found.s3_endpoint_url, region=found.s3_region)
