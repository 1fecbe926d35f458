"""The HTTP API: FastAPI routers over the layers below. No Dagster, and no work of its own."""
