"""Logging in to the dashboard: who an issuer says that somebody is, is who decides in review."""

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import QcReviewLog
from imgpipe_dagster.dashboard.review import SEEN_S
from imgpipe_dagster.store.local import LocalStore

pytestmark = pytest.mark.native


@pytest.fixture
def home(tmp_path, fill_catalogue, photo):
    folder = tmp_path / "home"
    folder.mkdir()
    engine = connect(make_url(f"sqlite:///{folder}/catalogue.db"))
    schema.upgrade(engine)
    fill_catalogue(engine, LocalStore(folder / "store"), lambda _kind, _number: photo)
    engine.dispose()
    return folder


def test_who_decides_is_who_logged_in_and_may_what_was_granted(home, browser, start_dashboard, issuer):
    dashboard = start_dashboard(
        home,
        IMGPIPE_OIDC_ISSUER=issuer.url,
        IMGPIPE_OIDC_AUDIENCE=issuer.audience,
        IMGPIPE_DASHBOARD_OIDC_CLIENT_SECRET=issuer.secret,
        IMGPIPE_OIDC_GRANTS='{"@example.com": ["read"], "ann@example.com": ["read", "review"]}',
    )
    issuer.person = {"email": "ann@example.com", "email_verified": True}
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{dashboard.url}/review")
    expect(page.get_by_role("heading", name="imgpipe")).to_be_visible()
    assert page.get_by_role("link", name="Review").count() == 0
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("ann@example.com")).to_be_visible()
    page.get_by_role("link", name="Review", exact=True).click()
    shown = page.locator("[data-testid=stImage] img").first
    expect(shown).to_have_attribute("alt", "Image 30, enhanced")
    page.wait_for_timeout(1000 * SEEN_S)
    page.keyboard.press("a")
    expect(shown).to_have_attribute("alt", "Image 29, enhanced")
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    with engine.connect() as connection:
        decided = connection.execute(sa.select(QcReviewLog.image_id, QcReviewLog.reviewer_id)).all()
    engine.dispose()
    assert [tuple(row) for row in decided] == [(30, "ann@example.com")]

    page.get_by_role("button", name="Log out").click()
    issuer.person = {"email": "eve@example.com", "email_verified": True}
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("eve@example.com").first).to_be_visible()
    page.get_by_role("link", name="Review", exact=True).click()
    expect(page.get_by_text("eve@example.com may not review here")).to_be_visible()
    page.close()
