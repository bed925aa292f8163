"""The page on an address of this machine, with nothing from elsewhere in it."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import gradio
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from san_cliptrase.app.page import CSS, THEME
from san_cliptrase.errors import OptionError

SECURITY = {
    # What the page may load: itself alone. gradio needs inline scripts, and functions that are made of texts.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-ancestors 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]
LAST_SECONDS = 1
"""Pages that are open when the server stops are cut off after this time."""


class SecurityHeaders:
    """Adds :data:`SECURITY` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on and its answer back."""

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in SECURITY.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket on the address.

    Raises:
        OptionError: It is in use, or this machine has no such address.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]
        raise OptionError(
            f"cannot listen on --host {host} --port {port}: {why}. Choose another port, or 0 for a free one"
        ) from error


def serve(page: gradio.Blocks, listening: socket.socket, local: bool, megabytes: int) -> None:
    """Serve the page until the process is told to stop.

    Args:
        page: See ``build_page``.
        listening: See :func:`listen`.
        local: Whether the address is of this machine alone: requests for other names, which a page from elsewhere
            could have given to it, are then refused.
        megabytes: The largest file that is taken.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app = gradio.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        max_file_size=megabytes * 2**20,
        theme=THEME,
        css=CSS,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        show_error=True,
    )
    app.add_middleware(SecurityHeaders)
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=LAST_SECONDS)
    uvicorn.Server(config).run(sockets=[listening])
