"""Who looks at the dashboard, and what they may do: those who log in, or whoever sits at this machine."""

import getpass
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import streamlit as st

from imgpipe_dagster.api.gate import Scope, scopes_of
from imgpipe_dagster.dashboard.launch import has_login
from imgpipe_dagster.settings import API_SCOPES, Settings

_NAME, _FIELD = "person_chosen", "person_name"
_COOKIE = "imgpipe_name"
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
    return Person(_given_name() or getpass.getuser(), frozenset(API_SCOPES))


def _given_name() -> str:
    """The name that was given in this session, or in an earlier one of this browser; empty where none was."""
    kept = unquote(st.context.cookies.get(_COOKIE, ""))
    return str(st.session_state.get(_NAME, kept)).strip()[:_LONGEST_NAME]


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
    name = _given_name()
    if name:  # and no field: the keys of the review would go on typing in it
        st.sidebar.text(name)
        st.sidebar.button("Use another name", on_click=_take_name, args=("",), icon=":material/edit:")
    else:
        st.sidebar.text_input(
            "Your name",
            key=_FIELD,
            on_change=lambda: _take_name(st.session_state[_FIELD]),
            placeholder=getpass.getuser(),
            max_chars=_LONGEST_NAME,
            help="Decisions in review are kept under this name.",
        )
    if _NAME in st.session_state:
        cookie = json.dumps(f"{_COOKIE}={quote(name, safe='')}; path=/; max-age=31536000; SameSite=Strict")
        st.sidebar.html(f"<script>document.cookie = {cookie};</script>", unsafe_allow_javascript=True)


def _take_name(name: str) -> None:
    st.session_state[_NAME] = name
