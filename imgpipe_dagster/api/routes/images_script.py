"""``/images_script``: reading the sources now, as the planogram system's endpoint did."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.api.guard import GuardedRoute, access
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.services import services_of
from imgpipe_dagster.polling import PollReport, poll_sources
from imgpipe_dagster.sources.base import SourceError

router = APIRouter(tags=["sources"], route_class=GuardedRoute)


class Polled(BaseModel):
    """What reading the sources gave."""

    taken_over: int = Field(description="New rows.")
    waiting: int = Field(description="Images that wait to be processed now.")
    told: int = Field(description="Answers that the SQL source was told.")
    refused: int = Field(description="Answers that the SQL source refused; `imgpipe poll --all` tells them again.")
    sources: dict[str, int] = Field(description="New rows of each source.")


@router.get("/images_script")
@access(Scope.WRITE, is_old_path=True)
async def start_poll(request: Request) -> Polled:
    """Read every configured source now; what it has goes the usual way through the pipeline."""
    return await _poll(request)


@router.post("/images_script")
@access(Scope.WRITE, is_old_path=True)
async def start_poll_by_post(request: Request) -> Polled:
    """As GET does."""
    return await _poll(request)


async def _poll(request: Request) -> Polled:
    services = services_of(request)
    try:
        report: PollReport = await services.polling.run(poll_sources, services.settings, services.engine)
    except SourceError as error:
        raise Refusal(Code.UNAVAILABLE, str(error), retry_after_s=30) from error
    if report.problem is not None:
        raise Refusal(Code.UNAVAILABLE, report.problem, retry_after_s=30)
    return Polled(
        taken_over=report.inserted,
        waiting=report.waiting,
        told=report.told,
        refused=report.refused,
        sources={name: rows.inserted for name, rows in report.sources.items()},
    )
