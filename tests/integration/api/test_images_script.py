"""`/images_script` reads the sources now and says what that gave."""

import sqlalchemy as sa

from imgpipe_dagster.catalogue.tables import ProductImage


def test_a_poll_takes_rows_over_and_says_how_many_wait(make_api, home, engine):
    shelf = home / "shelf.db"
    other = sa.create_engine(f"sqlite:///{shelf}")
    with other.begin() as connection:
        connection.execute(sa.text("CREATE TABLE fridge (image_id INTEGER PRIMARY KEY, image TEXT)"))
        connection.execute(sa.text("INSERT INTO fridge (image) VALUES ('a.jpg'), ('b.jpg')"))
    other.dispose()
    api = make_api(
        sql_source_url=f"sqlite:///{shelf}",
        sql_source_query="SELECT image_id, image FROM fridge",
        sql_source_base_url="https://cdn.example.com/",
        sql_source_overlap_s=0,
    )
    answer = api.get("/images_script")
    assert (answer.status_code, answer.json()) == (
        200,
        {"taken_over": 2, "waiting": 2, "told": 0, "refused": 0, "sources": {"sql": 2}},
    )
    assert api.post("/images_script").json()["taken_over"] == 0
    with engine.connect() as connection:
        urls = connection.scalars(sa.select(ProductImage.image_url).order_by(ProductImage.id)).all()
    assert urls == ["https://cdn.example.com/a.jpg", "https://cdn.example.com/b.jpg"]


def test_without_a_source_nothing_is_taken_over_and_one_that_is_away_is_said_so(make_api, home):
    assert make_api().get("/images_script").json() == {
        "taken_over": 0,
        "waiting": 0,
        "told": 0,
        "refused": 0,
        "sources": {},
    }
    away = make_api(
        sql_source_url=f"sqlite:///{home}/nothing/x.db", sql_source_query="SELECT image_id, image FROM fridge"
    )
    answer = away.get("/images_script")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_open_networks_reach_it_without_a_key_and_others_do_not(make_api):
    options = {"api_open_networks": ["10.0.0.0/8"], "base_url": "http://10.1.1.1"}
    assert make_api(client=("10.1.2.3", 1), **options).get("/images_script").status_code == 200
    assert make_api(client=("192.0.2.1", 1), **options).get("/images_script").status_code == 401
