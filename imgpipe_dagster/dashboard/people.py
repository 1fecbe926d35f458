"""Who looks at the dashboard, and what they may do: those who log in, or whoever sits at this machine."""

import getpass
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from imgpipe_dagster.api.gate import Scope, scopes_of
from imgpipe_dagster.dashboard.launch import has_login
from imgpipe_dagster.settings import API_SCOPES, Settings

_NAME_KEY = "person_name"
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Person:
    """Somebody at the dashboard.

    Attributes:
        name: As the review log keeps it.
        scopes: What they may do.
    """

    name: str
    scopes: frozenset[str]


def logged_in(claims: Mapping[str, Any], settings: Settings) -> Person:
    """Who a login is about.

    Args:
        claims: Of the verified token. An e-mail address counts only if the issuer says that it is verified.
        settings: Whose grants say what they may do.
    """
    email = claims.get("email") if claims.get("email_verified") is True else None
    name = str(email) if email else f"{claims.get('sub')}@{urlsplit(settings.oidc_issuer or '').hostname}"
    return Person(name[:_LONGEST_NAME], scopes_of(claims, settings.oidc_grants))


def person(settings: Settings) -> Person | None:
    """Who is here; None for somebody who has to log in first."""
    if has_login(settings):
        return logged_in(st.user.to_dict(), settings) if st.user.get("is_logged_in") else None
    name = str(st.session_state.get(_NAME_KEY) or "").strip()
    return Person(name or getpass.getuser(), frozenset(API_SCOPES))


def require(scope: Scope, who: Person) -> bool:
    """Whether somebody may; if not, the page says so."""
    if scope in who.scopes:
        return True
    st.info(f"{who.name} may not {scope} here. An operator grants it in IMGPIPE_OIDC_GRANTS.")
    return False


def sidebar(settings: Settings, who: Person) -> None:
    """Who is here, at the foot of the navigation; a name can be given where nobody logs in."""
    if has_login(settings):
        st.sidebar.text(who.name)
        st.sidebar.button("Log out", on_click=st.logout, icon=":material/logout:")
        return
    st.sidebar.text_input(
        "Your name",
        key=_NAME_KEY,
        placeholder=getpass.getuser(),
        max_chars=_LONGEST_NAME,
        help="Decisions in review are kept under this name.",
    )
