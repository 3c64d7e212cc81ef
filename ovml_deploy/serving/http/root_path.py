"""ASGI middleware for a server that a reverse proxy puts below a path."""

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class RootPath:
    """Remove the path prefix that a proxy may leave on: ``/tagger/v1/tag`` becomes ``/v1/tag``.

    The prefix is ``root_path``, or the ASGI scope's own (Ray Serve's ``route_prefix``). Requests without
    the prefix pass unchanged, since most proxies strip it. The prefix alone is redirected to its folder, to
    which the page's links are relative.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        prefix = (scope.get("root_path") or self._root_path) if scope["type"] == "http" else ""
        path = scope.get("path", "")
        if prefix and path == prefix and scope["method"] in ("GET", "HEAD"):
            await RedirectResponse(f"{prefix}/", 308)(scope, receive, send)
            return
        if prefix and path.startswith(f"{prefix}/"):
            raw = scope.get("raw_path")
            scope = {**scope, "path": path[len(prefix) :], "root_path": prefix}
            if raw is not None:
                scope["raw_path"] = raw[len(prefix.encode()) :]
        await self._app(scope, receive, send)
