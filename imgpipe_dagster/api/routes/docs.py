"""The page that shows what the API can do, made in the browser from the OpenAPI document."""

from fastapi import APIRouter, Request, Response

from imgpipe_dagster.api.guard import GuardedRoute, access
from imgpipe_dagster.api.pages import page
from imgpipe_dagster.api.services import services_of

router = APIRouter(route_class=GuardedRoute)


@router.get("/docs", response_class=Response, include_in_schema=False)
@access(None)
async def docs(request: Request) -> Response:
    """What the API can do, for people."""
    return page("docs.html", source_url=services_of(request).settings.source_url)
