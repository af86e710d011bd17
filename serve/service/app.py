"""The HTTP interface put together: routes, errors, and the document that describes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serve.service import scoring, state, videos
from serve.service.access import Keys
from serve.service.documents import ProblemDocument, list_problems
from serve.service.edge import Edge
from serve.service.engine import Engine
from serve.service.methods import install_methods
from serve.service.page import make_page_router
from serve.service.problems import install_problems

THREADS = 32  # that write uploads and follow jobs; the usual few would wait for one another


def make_app(engine: Engine, keys: Keys | None) -> FastAPI:
    """The app over an engine, which it starts and stops; `keys` is None where everybody on this machine may ask."""

    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        await asyncio.to_thread(engine.start)
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    app = FastAPI(
        title="unmask", version=engine.scorer.facts.unmask_version, lifespan=live, docs_url=None, redoc_url=None,
        description="Says of videos whether their faces are real.", redirect_slashes=False,
    )  # fmt: skip
    app.state.engine, app.state.keys = engine, keys
    install_problems(app)
    install_methods(app)
    for router in (make_page_router(), state.router, videos.router, scoring.router):
        app.include_router(router)
    app.add_middleware(Edge, metrics=engine.metrics, is_stopping=engine.stopping.is_set, local=keys is None)
    _describe_problems(app)
    if keys is None:
        _describe_no_keys(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """Puts the shape of problems into the OpenAPI document, also where the framework would describe its own."""
    document = app.openapi()
    schemas = document["components"]["schemas"]
    schemas["ProblemDocument"] = ProblemDocument.model_json_schema()
    for operations in document["paths"].values():
        for operation in operations.values():
            if "422" in operation["responses"]:
                operation["responses"]["422"] = list_problems(422)[422]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)


def _describe_no_keys(app: FastAPI) -> None:
    """Takes out of that document what no client of a service without keys has to give, or will ever be answered."""
    document = app.openapi()
    del document["components"]["securitySchemes"]
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
            operation["responses"].pop("401", None)
