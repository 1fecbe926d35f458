"""What Streamlit runs for every visitor and every click: who is here, which pages there are, what went wrong."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.engine import CatalogueError, describe_error
from imgpipe_dagster.dashboard import image, images, overview
from imgpipe_dagster.dashboard.people import Person, person, sidebar
from imgpipe_dagster.dashboard.services import settings
from imgpipe_dagster.store.base import StoreError


def main() -> None:
    """Show the page that was asked for."""
    st.set_page_config(page_title="imgpipe", layout="wide")
    with told():
        found = settings()
        who = person(found)
        if who is None:
            _log_in()
            return
        page = st.navigation(pages(who))
        sidebar(found, who)
        if found.source_url:
            st.sidebar.link_button("Source code (AGPL-3.0)", found.source_url, type="tertiary", icon=":material/code:")
        page.run()


def pages(who: Person) -> list[st.Page]:
    """All pages, in the order of the navigation."""

    def page(show: Callable[[Person], None], title: str, icon: str, url_path: str, *, hidden: bool = False) -> st.Page:
        return st.Page(
            lambda: show(who),
            title=title,
            icon=f":material/{icon}:",
            url_path=url_path,
            default=url_path == "overview",
            visibility="hidden" if hidden else "visible",
        )

    return [
        page(overview.show, "Overview", "monitoring", "overview"),
        page(images.show, "Images", "photo_library", "images"),
        page(image.show, "Image", "image", "image", hidden=True),
    ]


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong below becomes a sentence on the page."""
    try:
        yield
    except (CatalogueError, StoreError) as error:
        st.error(str(error), icon=":material/error:")
    except SQLAlchemyError as error:
        st.error(f"The catalogue cannot be reached: {describe_error(error)}", icon=":material/error:")
        st.button("Try again")
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        st.error(f"The settings are wrong. {wrong}", icon=":material/error:")


def _log_in() -> None:
    st.title("imgpipe")
    st.write("Log in to see the images and what was found in them.")
    st.button("Log in", on_click=st.login, type="primary", icon=":material/login:")


if __name__ == "__main__":
    main()
