"""What Streamlit runs for every visitor and every click: who is here, and which pages there are."""

from collections.abc import Callable

import streamlit as st

from imgpipe_dagster.dashboard import enhancement, image, images, overview, review, review_figures, temples, try_it
from imgpipe_dagster.dashboard.people import Person, person, sidebar
from imgpipe_dagster.dashboard.services import settings
from imgpipe_dagster.dashboard.telling import told

# Of our own: the icon of a page would be asked for at a foreign server.
ICON = """<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32" viewBox="0 0 32 32">
<rect width="32" height="32" rx="6" fill="#1f77b4"/><path d="M5 25l8-11 5 7 3-4 6 8z" fill="#fff"/>
<circle cx="23" cy="9" r="3" fill="#fff"/></svg>"""


def main() -> None:
    """Show the page that was asked for."""
    st.set_page_config(page_title="imgpipe", page_icon=ICON, layout="wide")
    with told():
        found = settings()
        who = person(found)
        if who is None:
            _log_in()
            return
        page = st.navigation(pages(who))
        st.set_page_config(page_title=f"{page.title} · imgpipe")
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
        page(enhancement.show, "Enhancement", "auto_fix_high", "enhancement"),
        page(review.show, "Review", "rule", "review"),
        page(review_figures.show, "Review figures", "query_stats", "review_figures"),
        page(temples.show, "Temples", "temple_buddhist", "temples"),
        page(try_it.show, "Try it", "science", "try"),
    ]


def _log_in() -> None:
    st.title("imgpipe")
    st.write("Log in to see the images and what was found in them.")
    st.button("Log in", on_click=st.login, icon=":material/login:")


if __name__ == "__main__":
    main()
