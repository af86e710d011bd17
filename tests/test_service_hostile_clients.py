"""Clients that push what was refused, dawdle, crowd in, or are still sending when the service stops."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn

from serve.service.connections import Connection
from serve.service.edge import QUIET_S
from serve.service.problems import ProblemError
from serve.service.server import GRACE_S
from serve.service.uploads import Uploads
from tests.conftest import Start
from tests.media import carphone
from tests.service_process import PATIENCE_S, Service, read_answer, read_status, require_raw_problem

POST = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: video/mp4\r\n"
GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LONG = 64 << 20


@pytest.fixture
def service(start: Start) -> Service:
    return start().await_ready()


def test_a_client_that_pushes_what_is_too_large_reads_why_it_was_refused(start: Start, tmp_path: Path) -> None:
    service = start("--max-size", "1MB").await_ready()
    response = service.client.post("/v1/videos", content=bytes(40 << 20), headers={"Content-Type": "video/mp4"})
    assert (response.status_code, response.json()["type"]) == (413, "/problems/too-large")

    def pour() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 20)

    response = service.client.post("/v1/videos", content=pour(), headers={"Content-Type": "video/mp4"})
    assert (response.status_code, response.json()["type"]) == (413, "/problems/too-large")
    response = service.client.post("/v1/videos", content=bytes(40 << 20), headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert service.list_files("uploads") == []


def test_a_client_that_says_it_will_close_reads_why_it_was_refused(start: Start) -> None:
    service = start("--max-size", "1MB").await_ready()
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as client:
        client.sendall(POST + b"Connection: close\r\nContent-Length: 99000000\r\n\r\n")
        for _ in range(99):
            client.sendall(bytes(1_000_000))
        assert read_status(client.recv(1 << 16)) == 413
        while client.recv(1 << 16):
            pass


def test_who_asks_before_sending_what_is_too_large_is_answered_at_once(start: Start) -> None:
    service = start("--max-size", "1MB").await_ready()
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as client:
        began = time.monotonic()
        client.sendall(POST + b"Content-Length: 99000000\r\nExpect: 100-continue\r\n\r\n")
        assert read_status(client.recv(1 << 16)) == 413
        assert time.monotonic() - began < QUIET_S


def test_who_asks_before_sending_is_told_to_go_on(service: Service) -> None:
    content = carphone().read_bytes()
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as client:
        client.sendall(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(content))
        assert read_status(client.recv(1 << 16)) == 100
        client.sendall(content)
        assert read_status(client.recv(1 << 16)) == 202


def test_an_upload_under_way_does_not_hold_up_a_stop(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as client:
        client.sendall(POST + b"Content-Length: 5000000\r\n\r\n" + bytes(2_000_000))
        while not service.list_files("uploads"):
            time.sleep(0.01)
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        require_raw_problem(read_answer(client), 503, "/problems/stopping")
    assert service.process.wait(PATIENCE_S) == 0
    assert time.monotonic() - began < GRACE_S
    assert service.list_files("uploads") == []


def test_an_upload_that_keeps_coming_does_not_hold_up_a_stop(service: Service) -> None:
    piece = b"%x\r\n%s\r\n" % (1 << 17, bytes(1 << 17))
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + 20 * piece)
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        with suppress(OSError):  # once the connection has ended
            while time.monotonic() - began < PATIENCE_S:
                client.sendall(piece)
                time.sleep(0.02)
    assert time.monotonic() - began < GRACE_S
    assert service.process.wait(PATIENCE_S) == 0
    assert service.list_files("uploads") == []


def test_an_upload_that_drips_is_given_up(tmp_path: Path) -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b"x"

    uploads = Uploads(tmp_path)
    with pytest.raises(ProblemError) as refusal:
        asyncio.run(uploads.receive(drip(), None, 1000, 0.3, lambda: False))
    assert refusal.value.status == 408
    assert uploads.list_ids() == set()


async def answer_at_length(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LONG)]})
    await send({"type": "http.response.body", "body": bytes(LONG)})


@contextmanager
def listen(**choices: float) -> Iterator[tuple[str, int]]:
    """A server with such connections, whose every answer is long."""
    kind = type("Hasty", (Connection,), choices)
    config = uvicorn.Config(answer_at_length, port=0, log_level="critical", http=kind, lifespan="off")
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\nHost: 127"])
def test_a_head_that_does_not_come_ends_the_connection(head: bytes) -> None:
    with listen(head_s=0.3) as address, socket.create_connection(address, timeout=PATIENCE_S) as client:
        client.sendall(head)
        said = read_answer(client)
        if head:
            require_raw_problem(said, 408, "/problems/late")
        else:
            assert said == b""


def test_a_head_that_comes_in_drops_ends_the_connection() -> None:
    with listen(head_s=0.3) as address, socket.create_connection(address, timeout=PATIENCE_S) as client:
        began = time.monotonic()
        with suppress(OSError):  # once the connection has ended
            while time.monotonic() - began < PATIENCE_S:
                client.sendall(b"GET / HTTP/1.1\r\n" if time.monotonic() - began < 0.01 else b"A: b\r\n")
                time.sleep(0.02)
        assert time.monotonic() - began < PATIENCE_S / 2


def test_an_answer_that_is_not_taken_ends_the_connection() -> None:
    with listen(stuck_s=0.3) as address, socket.create_connection(address, timeout=PATIENCE_S) as client:
        client.sendall(GET)
        time.sleep(1.0)
        came = 0
        with suppress(ConnectionResetError):
            while chunk := client.recv(1 << 20):
                came += len(chunk)
        assert came < LONG


def test_one_connection_too_many_is_refused_and_the_others_live() -> None:
    with listen(most=2) as address:
        kept = [socket.create_connection(address, timeout=PATIENCE_S) for _ in range(2)]
        for client in kept:
            client.sendall(GET)
            assert read_status(client.recv(1 << 16)) == 200
        with socket.create_connection(address, timeout=PATIENCE_S) as client:
            require_raw_problem(read_answer(client), 503, "/problems/crowded")
        for client in kept:
            client.close()
