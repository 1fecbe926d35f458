"""Who may call: keys, tokens of a real issuer, open networks, nobody; how often; and once only."""

import base64
import hmac
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from fastapi import APIRouter, Request
from joserfc.jwk import ECKey, RSAKey
from pydantic import BaseModel

from imgpipe_dagster.api import gate
from imgpipe_dagster.api.gate import Scope, scopes_of
from imgpipe_dagster.api.guard import Body, GuardedRoute, access, principal_of
from imgpipe_dagster.catalogue.api_keys import create_key, revoke_key
from imgpipe_dagster.settings import Settings

ELSEWHERE = ("203.0.113.7", 40000)
AUDIENCE = "imgpipe-client"


class Named(BaseModel):
    name: str


def probes(app):
    """Paths that need a scope each, and one that counts how often it is run."""
    router = APIRouter(prefix="/api/v1/probe", route_class=GuardedRoute)
    app.state.runs = []
    app.state.hold = threading.Event()
    app.state.hold.set()

    @router.get("/read")
    @access(Scope.READ)
    async def read(request: Request) -> dict[str, str | None]:
        principal = principal_of(request)
        return {"name": principal.name, "user_id": principal.user_id}

    @router.get("/old")
    @access(Scope.WRITE, is_old_path=True)
    async def old(request: Request) -> str:
        return principal_of(request).id

    @router.post("/create", status_code=201)
    @access(Scope.WRITE, body=Body.JSON)
    async def create(request: Request, named: Named) -> dict[str, int]:
        app.state.runs.append(named.name)
        await request.app.state.services.in_thread(app.state.hold.wait)
        if named.name == "fail":
            raise RuntimeError("on purpose")
        return {"number": len(app.state.runs)}

    app.include_router(router)


@pytest.fixture
def key(engine):
    return create_key(engine, "all", ["read", "write", "review", "train"], email="ann@example.com")


def encoded(part):
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_without_any_key_this_machine_may_do_everything_and_others_nothing(make_api):
    assert make_api(prepare=probes).get("/api/v1/probe/read").status_code == 200
    answer = make_api(prepare=probes, client=ELSEWHERE).get("/api/v1/probe/read")
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_once_there_is_a_key_even_this_machine_needs_one_and_for_ever(make_api, engine):
    api = make_api(prepare=probes)
    assert api.get("/api/v1/probe/read").status_code == 200
    key = create_key(engine, "first", ["read"])
    time.sleep(gate.KEY_FRESH_S * 1.1)
    assert api.get("/api/v1/probe/read").status_code == 401
    assert api.get("/api/v1/probe/read", headers={"X-API-Key": key}).status_code == 200
    revoke_key(engine, "first")
    time.sleep(gate.KEY_FRESH_S * 1.1)
    assert api.get("/api/v1/probe/read", headers={"X-API-Key": key}).status_code == 401
    assert api.get("/api/v1/probe/read").status_code == 401


def test_a_key_is_taken_from_either_header_and_its_user_is_known(make_api, key):
    api = make_api(prepare=probes, client=ELSEWHERE)
    first = api.get("/api/v1/probe/read", headers={"X-API-Key": key}).json()
    second = api.get("/api/v1/probe/read", headers=bearer(key)).json()
    assert first == second
    assert first["user_id"] is not None


def test_a_key_allows_its_scopes_and_no_more(make_api, engine):
    reader = create_key(engine, "reader", ["read"])
    api = make_api(prepare=probes)
    assert api.get("/api/v1/probe/read", headers=bearer(reader)).status_code == 200
    answer = api.post("/api/v1/probe/create", json={"name": "x"}, headers=bearer(reader))
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert api.app.state.runs == []


def test_the_body_of_a_caller_who_may_not_is_never_read(make_api, key):
    asked = []

    def body():
        asked.append(1)
        yield b"{}"

    api = make_api(prepare=probes)
    # The test client hands the whole body over at once, so what is asked for is whether the path saw it.
    assert api.post("/api/v1/probe/create", content=body()).status_code == 401
    assert api.app.state.runs == []


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "imgpipe_wrong"},
        {"Authorization": "Bearer imgpipe_wrong"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YTpi"},
        {"X-API-Key": "ü".encode()},
    ],
)
def test_a_wrong_key_is_refused_even_where_none_is_needed(make_api, headers):
    answer = make_api(prepare=probes).get("/api/v1/probe/read", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


def test_an_expired_key_is_refused(make_api, engine, key):
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE api_keys SET expires_at = '2020-01-01 00:00:00.000000'"))
    assert make_api(prepare=probes).get("/api/v1/probe/read", headers=bearer(key)).status_code == 401


def test_a_key_is_stored_as_a_hash_only_and_its_use_is_noted(make_api, engine, key, home):
    make_api(prepare=probes).get("/api/v1/probe/read", headers=bearer(key))
    with engine.connect() as connection:
        row = connection.execute(sa.text("SELECT key_sha256, last_used_at FROM api_keys")).one()
    assert row.key_sha256 not in key
    assert row.last_used_at is not None
    assert key.encode() not in b"".join(path.read_bytes() for path in home.glob("catalogue.db*"))


def test_a_key_reads_on_where_its_use_cannot_be_noted(make_api, engine, key, caplog):
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE UPDATE ON api_keys BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    assert make_api(prepare=probes).get("/api/v1/probe/read", headers=bearer(key)).status_code == 200
    assert "the disk is full" in caplog.text


def test_guessing_is_slowed_down_by_address_and_holds_no_good_key_up(make_api, key):
    api = make_api(prepare=probes)
    codes = [api.get("/api/v1/probe/read", headers=bearer(f"imgpipe_{n}")).status_code for n in range(25)]
    assert codes[0] == 401
    assert codes[-1] == 429
    assert api.get("/api/v1/probe/read", headers=bearer(key)).status_code == 200


# --- Networks and pages -----------------------------------------------------------------------------------------------


def test_named_networks_reach_the_old_paths_without_a_key_and_nothing_else(make_api, key):
    inside = make_api(prepare=probes, client=("10.1.2.3", 1), api_open_networks=["10.1.0.0/16"])
    assert inside.get("/api/v1/probe/old").json() == "address:10.1.2.3"
    assert inside.get("/api/v1/probe/read").status_code == 401
    outside = make_api(prepare=probes, client=("10.2.0.1", 1), api_open_networks=["10.1.0.0/16"])
    assert outside.get("/api/v1/probe/old").status_code == 401
    mapped = make_api(prepare=probes, client=("::ffff:10.1.2.3", 1), api_open_networks=["10.1.0.0/16"])
    assert mapped.get("/api/v1/probe/old").status_code == 200


def test_an_open_network_gives_this_machine_no_more_than_others(make_api):
    api = make_api(prepare=probes, api_open_networks=["10.1.0.0/16"])
    assert api.get("/api/v1/probe/read").status_code == 401


def test_a_forwarded_address_is_believed_of_nobody_by_default(make_api):
    api = make_api(prepare=probes, client=ELSEWHERE, api_open_networks=["10.1.0.0/16"])
    assert api.get("/api/v1/probe/old", headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},  # a name that its owner has pointed at 127.0.0.1
        {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"},
    ],
)
def test_a_page_of_another_site_cannot_borrow_a_trusted_address(make_api, headers):
    answer = make_api(prepare=probes).get("/api/v1/probe/read", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8000", "Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"},
        {"Host": "127.0.0.1:8000"},
        {"Host": "[::1]:8000"},
        {"Host": "api:8000"},
        {"Host": "images.example.com"},
        {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_our_own_pages_names_and_named_origins_may(make_api, headers):
    api = make_api(prepare=probes, api_hosts=["images.example.com"], api_cors_origins=["https://shop.example"])
    assert api.get("/api/v1/probe/read", headers=headers).status_code == 200


def test_browsers_of_other_sites_are_told_nothing_unless_their_origin_is_named(make_api, key):
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in make_api().options("/api/v1/probe/create", headers=asked).headers
    named = make_api(prepare=probes, api_cors_origins=["https://shop.example"])
    assert (
        named.options("/api/v1/probe/create", headers=asked).headers["access-control-allow-origin"] == asked["Origin"]
    )
    other = named.options("/api/v1/probe/create", headers={**asked, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


# --- Tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trusting(make_api, issuer):
    """An API that trusts the issuer."""
    grants = {"ann@example.com": ["read", "write"], "@example.org": ["read"], "subject-1": ["read"]}
    return make_api(
        prepare=probes, client=ELSEWHERE, oidc_issuer=issuer.url, oidc_audience=AUDIENCE, oidc_grants=grants
    )


def test_a_genuine_token_is_let_in_and_its_owner_becomes_a_user(trusting, issuer, engine):
    token = issuer.token(email="ann@example.com", email_verified=True)
    first = trusting.get("/api/v1/probe/read", headers=bearer(token)).json()
    assert first["name"] == "ann@example.com"
    again = issuer.token(email="ann@example.com", email_verified=True, iat=1)
    assert trusting.get("/api/v1/probe/read", headers=bearer(again)).json() == first
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT user_id, email FROM users")).all() == [
            (first["user_id"], "ann@example.com")
        ]


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"aud": "somebody-else"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"nbf": 32_503_680_000},  # in the year 3000
    ],
    ids=str,
)
def test_a_token_that_is_expired_or_meant_for_others_is_refused(trusting, issuer, claims):
    answer = trusting.get("/api/v1/probe/read", headers=bearer(issuer.token(**claims)))
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


def test_a_token_that_nobody_or_somebody_else_signed_is_refused(trusting, issuer):
    genuine = issuer.token()
    head, body, _signature = genuine.split(".")
    unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + body + "."
    own_key = issuer.token(key=RSAKey.generate_key(2048, {"kid": "one"}))
    public = issuer.keys[0].as_pem(private=False)
    confused = encoded({"alg": "HS256", "kid": "one"}) + "." + body
    confused += "." + encoded(hmac.digest(public, confused.encode(), "sha256"))
    embedded = issuer.token(
        key=(mine := RSAKey.generate_key(2048, {"kid": "mine"})), header={"jwk": mine.as_dict(private=False)}
    )
    for token in (unsigned, own_key, confused, embedded, f"{head}.{body}.", "a.b.c", genuine + "x", "." * 20_000):
        assert trusting.get("/api/v1/probe/read", headers=bearer(token)).status_code in (401, 429), token[:60]
    assert trusting.get("/api/v1/probe/read", headers=bearer(genuine)).status_code == 200


def test_keys_that_the_issuer_changes_are_found(trusting, issuer, monkeypatch):
    monkeypatch.setattr("imgpipe_dagster.api.tokens._KEYS_ASKED_EVERY_S", 0.0)
    assert trusting.get("/api/v1/probe/read", headers=bearer(issuer.token())).status_code == 200
    issuer.keys = [ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})]
    renewed = issuer.token(algorithm="ES256")
    assert trusting.get("/api/v1/probe/read", headers=bearer(renewed)).status_code == 200


def test_made_up_tokens_do_not_make_us_ask_the_issuer_each_time(trusting, issuer):
    trusting.get("/api/v1/probe/read", headers=bearer(issuer.token()))
    before = issuer.asked
    for _ in range(5):
        trusting.get("/api/v1/probe/read", headers=bearer("a.b.c"))
    assert issuer.asked == before


def test_an_issuer_that_is_away_is_503_and_keys_still_work(make_api, key):
    api = make_api(prepare=probes, oidc_issuer="http://127.0.0.1:9", oidc_audience=AUDIENCE)
    answer = api.get("/api/v1/probe/read", headers=bearer("a.b.c"))
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    assert api.get("/api/v1/probe/read", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"sub": "x"}, {"read"}),
        ({"sub": "x", "scope": "openid imgpipe:write imgpipe:nonsense write"}, {"read", "write"}),
        ({"sub": "x", "roles": ["imgpipe:train", 7]}, {"read", "train"}),
        ({"sub": "s", "email": "ann@example.com", "email_verified": True}, {"read", "review"}),
        ({"sub": "s", "email": "ann@example.com", "email_verified": "true"}, {"read"}),
        ({"sub": "s", "email": "ann@example.com"}, {"read"}),
        ({"sub": "s", "email": "bob@example.net", "email_verified": True}, {"read", "write"}),
    ],
)
def test_what_a_token_allows(claims, scopes):
    grants = {"*": ["read"], "ann@example.com": ["review"], "@example.net": ["write"]}
    assert scopes_of(claims, grants) == scopes


def test_an_issuer_without_an_audience_is_no_setting():
    with pytest.raises(ValueError, match="oidc_audience"):
        Settings(oidc_issuer="https://accounts.google.com")


# --- How often --------------------------------------------------------------------------------------------------------


def test_who_comes_too_often_is_told_when_to_come_again(make_api, key):
    api = make_api(prepare=probes, api_rate_limit="3/minute")
    codes = [api.get("/api/v1/probe/read", headers=bearer(key)).status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    answer = api.get("/api/v1/probe/read", headers=bearer(key))
    assert answer.json()["code"] == "rate_limited"
    assert 1 <= int(answer.headers["Retry-After"]) <= 120


def test_each_key_and_each_address_has_a_count_of_its_own(make_api, engine):
    keys = [create_key(engine, name, ["read"]) for name in ("one", "two")]
    api = make_api(prepare=probes, api_rate_limit="1/minute", client=("10.1.2.3", 1), api_open_networks=["10.0.0.0/8"])
    assert [api.get("/api/v1/probe/read", headers=bearer(key)).status_code for key in keys] == [200, 200]
    assert api.get("/api/v1/probe/old").status_code == 200
    assert api.get("/api/v1/probe/old").status_code == 429


def test_health_is_asked_as_often_as_one_likes(make_api):
    api = make_api(api_rate_limit="1/minute")
    assert {api.get("/healthz").status_code for _ in range(5)} == {200}


def test_counts_in_redis_are_shared_and_survive_a_restart(make_api, key, redis_url):
    settings = {"prepare": probes, "api_rate_limit": "4/hour", "redis_url": redis_url}
    first, second = make_api(**settings), make_api(**settings)
    codes = [api.get("/api/v1/probe/read", headers=bearer(key)).status_code for api in (first, second, first, second)]
    assert codes == [200] * 4
    assert first.get("/api/v1/probe/read", headers=bearer(key)).status_code == 429
    assert make_api(**settings).get("/api/v1/probe/read", headers=bearer(key)).status_code == 429


def test_while_redis_is_away_each_process_counts_for_itself(make_api, key):
    api = make_api(prepare=probes, api_rate_limit="2/hour", redis_url="redis://127.0.0.1:9/0")
    codes = [api.get("/api/v1/probe/read", headers=bearer(key)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]


# --- Once only --------------------------------------------------------------------------------------------------------


def create(api, key, name, once, **options):
    headers = {**bearer(key), "Idempotency-Key": once}
    return api.post("/api/v1/probe/create", json={"name": name}, headers=headers, **options)


def test_a_request_that_is_sent_again_is_done_once(make_api, key, engine):
    api = make_api(prepare=probes)
    first = create(api, key, "a", "k1")
    second = create(make_api(prepare=probes), key, "a", "k1")  # another process
    assert (first.status_code, first.json()) == (second.status_code, second.json()) == (201, {"number": 1})
    assert second.headers["Idempotent-Replayed"] == "true"
    assert api.app.state.runs == ["a"]
    other = create_key(engine, "other", ["write"])
    assert create(api, other, "b", "k1").json() == {"number": 2}  # another caller's key is another key


def test_a_key_with_another_body_is_refused(make_api, key):
    api = make_api(prepare=probes)
    create(api, key, "a", "k1")
    answer = create(api, key, "b", "k1")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("bad", ["", "x" * 256, "two words"])
def test_a_key_that_is_none_is_refused(make_api, key, bad):
    assert create(make_api(prepare=probes), key, "a", bad).status_code == 400


def test_of_two_requests_at_once_one_is_done_and_the_other_waits_its_turn(make_api, key):
    api = make_api(prepare=probes)
    api.app.state.hold.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(create, api, key, "a", "k1") for _ in range(8)]
        deadline = time.monotonic() + 20
        while sum(future.done() for future in asked) < 7 and time.monotonic() < deadline:
            time.sleep(0.02)
        api.app.state.hold.set()
        answers = sorted(future.result().status_code for future in asked)
    assert answers == [201] + [409] * 7
    assert api.app.state.runs == ["a"]
    assert create(api, key, "a", "k1").json() == {"number": 1}


def test_a_request_that_failed_or_was_refused_may_be_sent_again(make_api, key):
    api = make_api(prepare=probes)
    assert create(api, key, "fail", "k1").status_code == 500
    assert create(api, key, "fail", "k1").status_code == 500
    assert api.app.state.runs == ["fail", "fail"]
    headers = {**bearer(key), "Idempotency-Key": "k2"}
    assert api.post("/api/v1/probe/create", json={"nam": "a"}, headers=headers).status_code == 422
    assert create(api, key, "a", "k2").status_code == 201


def test_a_request_whose_process_died_is_done_by_the_next(make_api, key, engine):
    api = make_api(prepare=probes)
    create(api, key, "a", "k1")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE idempotency_keys SET status = NULL, created_at = '2020-01-01'"))
    assert create(api, key, "a", "k1").json() == {"number": 2}
