"""The server: uvicorn around the app, which ends in good order when it is told to."""

from __future__ import annotations

import logging
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn

from extract.errors import UnmaskError
from extract.lock import Lock
from extract.session import Device
from serve.scorer import Scorer
from serve.service.access import choose_keys
from serve.service.app import make_app
from serve.service.connections import Connection, allow_connections
from serve.service.engine import Engine
from serve.service.logs import start_logs
from serve.service.memory import limit_arenas
from serve.service.metrics import Metrics
from serve.service.settings import Settings
from serve.service.store import Store
from serve.service.uploads import Uploads

LOG = logging.getLogger("unmask.service")
GRACE_S = 20  # for requests that are being answered
DATABASE = "jobs.sqlite"


class Server(uvicorn.Server):
    """Tells the engine of a signal at once, so that what streams to clients ends by itself."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends the service; a second Ctrl-C does not wait for requests."""
        self._engine.stopping.set()
        # Not handed on to the original handler afterwards: the end is in order, and its exit code 0.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def serve(settings: Settings, model: Path, host: str, port: int, keys: Path | None, device: Device) -> None:
    """Serves a model until a signal ends it."""
    limit_arenas()
    start_logs()
    known = choose_keys(host, keys)
    uploads = Uploads(settings.data)
    lock = Lock(settings.data / ".lock", f"serves {settings.data}; name another --data")
    store = Store(settings.data / DATABASE)
    try:
        with Scorer.open(model, device, **settings.choices, jobs=settings.jobs, limits=settings.limits) as scorer:
            engine = Engine(settings, scorer, store, uploads, Metrics(), str(model))
            engine.recover()
            Connection.most = allow_connections()
            config = uvicorn.Config(
                make_app(engine, known), host=host, port=port, log_config=None, access_log=False, server_header=False,
                proxy_headers=False, timeout_keep_alive=15, timeout_graceful_shutdown=GRACE_S, lifespan="on", ws="none",
                http=Connection,
            )  # fmt: skip
            server = Server(config, engine)
            with suppress(SystemExit):  # uvicorn's own way to say that it could not bind
                server.run()
            if not server.started:
                raise UnmaskError(f"the service could not start on {host}, port {port}; its log says why")
    finally:
        store.close()
        lock.release()
    LOG.info("stopped")
