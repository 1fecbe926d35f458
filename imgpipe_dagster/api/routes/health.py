"""Whether the process lives, whether it can work, and its figures."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.api.guard import GuardedRoute, access
from imgpipe_dagster.api.inference import TRY_AGAIN_S
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.services import services_of
from imgpipe_dagster.catalogue.engine import CatalogueError
from imgpipe_dagster.catalogue.schema import require_current

router = APIRouter(tags=["health"], route_class=GuardedRoute)


class Health(BaseModel):
    """That it is well."""

    status: str = "ok"


@router.get("/healthz")
@access(None)
async def healthz() -> Health:
    """Whether the process lives. It asks nobody else."""
    return Health()


@router.get("/readyz")
@access(None)
async def readyz(request: Request) -> Health:
    """Whether the process can work now: the models are loaded, the catalogue answers, and it is not about to end."""
    services = services_of(request)
    if services.draining:
        raise Refusal(Code.UNAVAILABLE, "The server is about to end.", retry_after_s=1)
    if services.loading:
        raise Refusal(Code.UNAVAILABLE, "The models are being loaded.", retry_after_s=2)
    if services.unloaded is not None:
        raise Refusal(Code.UNAVAILABLE, services.unloaded, retry_after_s=TRY_AGAIN_S)
    try:
        await services.in_thread(require_current, services.engine)
    except (CatalogueError, SQLAlchemyError) as error:
        detail = str(error) if isinstance(error, CatalogueError) else "The catalogue is away."
        raise Refusal(Code.UNAVAILABLE, detail, retry_after_s=5) from error
    return Health()


@router.get("/metrics", response_class=Response)
@access(Scope.READ, is_old_path=True)
async def metrics(request: Request) -> Response:
    """The figures of this process in Prometheus' text format."""
    return Response(generate_latest(services_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
