"""How errors are told to people: in a sentence, never as a stack trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.engine import CatalogueError, describe_error
from imgpipe_dagster.catalogue.qc import ReviewError
from imgpipe_dagster.store.base import StoreError


@contextmanager
def told(*, again: bool = True) -> Iterator[None]:
    """What goes wrong in the block becomes a sentence on the page.

    Args:
        again: Offer to try again; not in callbacks and fragments, whose page is told of the same and offers it.
    """
    try:
        yield
    except ReviewError as error:
        st.warning(str(error), icon=":material/info:")
    except (CatalogueError, StoreError) as error:
        st.error(str(error), icon=":material/error:")
    except SQLAlchemyError as error:
        st.error(f"The catalogue cannot be reached: {describe_error(error)}", icon=":material/error:")
        if again:
            st.button("Try again")
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        st.error(f"The settings are wrong. {wrong}", icon=":material/error:")
