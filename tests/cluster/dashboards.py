"""A server that speaks as Ray's dashboard does, and behaves as badly as a network can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray
from aiohttp import web


@dataclass
class Dashboard:
    """What it answers; tests change it while it runs.

    Attributes:
        url: Where it listens.
        version: Its answer to who it is.
        status: HTTP status of its answer about any job.
        job: That answer; text where it is no JSON.
        log: What the job has printed.
        is_mute: Says nothing about jobs at all, with the connection open.
        tokens: The Authorization headers that came.
    """

    url: str = ""
    version: object = field(default_factory=lambda: {"ray_version": ray.__version__})
    status: int = 200
    job: object = field(default_factory=lambda: job("RUNNING"))
    log: str = ""
    is_mute: bool = False
    tokens: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer anything that is asked."""
        self.tokens.append(request.headers.get("Authorization", ""))
        if request.path == "/api/version":
            return web.json_response(self.version)
        if request.path.endswith("/logs/tail"):
            return await self._tail(request)
        if self.is_mute:
            await asyncio.sleep(60)
        if request.path.endswith("/logs"):
            return web.json_response({"logs": self.log})
        if isinstance(self.job, str):
            return web.Response(status=self.status, text=self.job)
        return web.json_response(self.job, status=self.status)

    async def _tail(self, request: web.Request) -> web.WebSocketResponse:
        """Send what there is, then nothing: as over a connection whose other end is gone."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(self.log[: len(self.log) // 2])
        await asyncio.sleep(60)
        return socket


def job(status: str, code: int | None = None) -> dict[str, object]:
    """Return what a dashboard says of a job."""
    return {"type": "SUBMISSION", "submission_id": "j", "status": status, "entrypoint": "x"} | {
        "driver_exit_code": code
    }


@contextmanager
def bad_dashboard() -> Iterator[Dashboard]:
    """Serve on loopback until the context is left."""
    dashboard, loop = Dashboard(), asyncio.new_event_loop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", dashboard.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    dashboard.url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield dashboard
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
