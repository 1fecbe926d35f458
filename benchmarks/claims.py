"""What claiming costs: all waiting rows claimed in batches, against one plain UPDATE of the same rows, on MariaDB.

Starts a MariaDB server of its own on a temporary folder, or uses the empty database that ``--url`` names. The sides
take turns; before each turn the rows are put back to wait.

    python benchmarks/claims.py [--images 100000] [--rounds 3] [--url mysql+pymysql://user:password@127.0.0.1/claims]
"""

import argparse
import os
import statistics
import time

import sqlalchemy as sa
from _mariadb import mariadb
from sqlalchemy.engine import Engine, make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.batches import BatchLimits, claim_batch
from imgpipe_dagster.catalogue.engine import connect, transact
from imgpipe_dagster.catalogue.tables import Claimant, ImageBatch, ImageStatus, ProductImage
from imgpipe_dagster.catalogue.types import utc_now
from imgpipe_dagster.streams import chunks

GOAL = 2.0


def put_back(engine: Engine) -> None:
    """Every row waits again, and no batch is known."""
    with engine.begin() as connection:
        connection.execute(sa.update(ProductImage).values(status=ImageStatus.PENDING, batch_key=None))
        connection.execute(sa.delete(ImageBatch))


def claim_all(engine: Engine, count: int) -> float:
    """Seconds of claiming every row, in batches as large as a long backlog makes them."""
    limits = BatchLimits(size=500, max_size=5000, max_wait_s=0)
    begun = time.perf_counter()
    claimed = 0
    while (batch := claim_batch(engine, limits, Claimant.CLI)) is not None:
        claimed += batch.image_count
    seconds = time.perf_counter() - begun
    assert claimed == count, f"{claimed} of {count} rows were claimed"
    return seconds


def update_all(engine: Engine, count: int) -> float:
    """Seconds of one UPDATE that gives the same columns of the same rows the same kind of values."""
    statement = (
        sa.update(ProductImage)
        .where(ProductImage.status == ImageStatus.PENDING)
        .values(status=ImageStatus.PROCESSING, batch_key="20261120-000001", reason=None, updated_at=utc_now())
    )
    begun = time.perf_counter()
    changed = transact(engine, lambda connection: connection.execute(statement).rowcount)
    seconds = time.perf_counter() - begun
    assert changed == count
    return seconds


def measure(url: str, count: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round: of the claims, and of the plain UPDATE."""
    engine = connect(make_url(url))
    schema.upgrade(engine)
    rows = [{"image_url": f"https://cdn.example.com/{number}.jpg"} for number in range(count)]
    with engine.begin() as connection:
        for chunk in chunks(rows, 5000):
            connection.execute(sa.insert(ProductImage), list(chunk))
    claims: list[float] = []
    updates: list[float] = []
    for _ in range(rounds):
        for side, seconds in ((update_all, updates), (claim_all, claims)):
            put_back(engine)
            seconds.append(side(engine, count))
    engine.dispose()
    return claims, updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="an empty MySQL or MariaDB database")
    options = parser.parse_args()
    if options.url:
        claims, updates = measure(options.url, options.images, options.rounds)
    else:
        with mariadb("claims") as url:
            claims, updates = measure(url, options.images, options.rounds)
    ratio = statistics.median(claims) / statistics.median(updates)
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {options.images} rows, median of {options.rounds}\n")
    print("| | seconds |\n|---|---|")
    print(f"| one plain UPDATE | {statistics.median(updates):.2f} |")
    print(f"| claimed in batches | {statistics.median(claims):.2f} |")
    print(f"| ratio (goal: at most {GOAL:g}) | {ratio:.2f} |")


if __name__ == "__main__":
    main()
