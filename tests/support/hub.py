"""A stand-in for the hub's data set API, which works with the hub's own client."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aiohttp import web

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves a folder as a data set; can interrupt a file in the middle, or refuse requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served: list[str] = []
        self.refuse_after: int | None = None  # number of files to serve before 503
        self.newest = SHA
        self.revisions: list[str] = []  # of the files served

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/datasets/{owner}/{name}/revision/{revision}", self.info)
        app.router.add_get("/api/datasets/{owner}/{name}", self.info)
        app.router.add_get("/api/datasets/{owner}/{name}/tree/{revision}", self.tree)
        app.router.add_route(
            "*", "/datasets/{owner}/{name}/resolve/{revision}/{path:.*}", self.resolve
        )
        return app

    def _files(self) -> list[Path]:
        return sorted(p for p in self.folder.rglob("*") if p.is_file())

    async def info(self, request: web.Request) -> web.Response:
        revision = request.match_info.get("revision", self.newest)
        if revision not in (SHA, self.newest, "main"):
            return web.json_response(
                {"error": "Revision not found"},
                status=404,
                headers={"X-Error-Code": "RevisionNotFound"},
            )
        names = [str(p.relative_to(self.folder)) for p in self._files()]
        return web.json_response(
            {
                "id": f"{request.match_info['owner']}/{request.match_info['name']}",
                "sha": SHA if revision == SHA else self.newest,
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": name} for name in names],
            }
        )

    async def tree(self, _: web.Request) -> web.Response:
        return web.json_response(
            [
                {
                    "type": "file",
                    "path": str(p.relative_to(self.folder)),
                    "size": p.stat().st_size,
                    "oid": _blob(p.read_bytes()),
                }
                for p in self._files()
            ]
        )

    async def resolve(self, request: web.Request) -> web.Response:
        self.revisions.append(request.match_info["revision"])
        path = self.folder / request.match_info["path"]
        content = path.read_bytes()
        headers = {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(content))
            return web.Response(headers=headers)
        if self.refuse_after is not None and len(self.served) >= self.refuse_after:
            return web.Response(status=503)
        self.served.append(request.match_info["path"])
        return web.Response(body=content, headers=headers)


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
