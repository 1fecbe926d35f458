"""How errors are told to people: in a sentence, never as a stack trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.engine import CatalogueError, describe_error
from imgpipe_dagster.catalogue.qc import ReviewError
from imgpipe_dagster.dashboard.words import plain
from imgpipe_dagster.store.base import StoreError

_LONGEST = 1000


@contextmanager
def told(*, again: bool = True) -> Iterator[None]:
    """What goes wrong in the block becomes a sentence on the page.

    Args:
        again: Offer to try again; not in callbacks and fragments, whose page is told of the same and offers it.
    """
    try:
        yield
    except ReviewError as error:
        st.warning(plain(error, _LONGEST), icon=":material/info:")
    except (CatalogueError, StoreError) as error:
        st.error(plain(error, _LONGEST), icon=":material/error:")
    except SQLAlchemyError as error:
        st.error(f"The catalogue cannot be reached: {plain(describe_error(error), _LONGEST)}", icon=":material/error:")
        if again:
            st.button("Try again")
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        st.error(f"The settings are wrong. {plain(wrong, _LONGEST)}", icon=":material/error:")
