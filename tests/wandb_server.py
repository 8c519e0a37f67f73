"""A stand-in for wandb's server: it keeps saved views (workspaces and reports) and answers what the library asks."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STAMP = "2026-01-01T00:00:00"


class Server(ThreadingHTTPServer):
    """Projects of the entity `me` with their views by id; `refuse` maps a word of a query to an HTTP status."""

    def __init__(self, *projects: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.projects = projects
        self.views: dict[str, dict[str, Any]] = {}
        self.refuse: dict[str, int] = {}
        self.sent: list[Any] = []
        """for what a test keeps from the server"""
        self._saved = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Saved views of a type: "project-view" for workspaces, "runs" for reports."""
        return [view for view in self.views.values() if view["type"] == kind]

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "UHJvamVjdDox", "internalId": "UHJvamVjdDox", "name": "", "entityName": "me"}
        if "upsertView" in query:
            return {"upsertView": {"view": self._save(given), "inserted": True}}
        if "view(id:" in query:
            return {"view": self.views.get(given["reportId"])}
        if "viewer" in query:
            return {"viewer": {"id": "VXNlcjox", "entity": "me", "username": "me", "email": "", "flags": "{}"}}
        if "models(" in query:
            node = {"createdAt": STAMP, "isBenchmark": False, "user": None, "__typename": "Project"}
            edges = [{"cursor": "", "node": {**project, **node, "name": name}} for name in self.projects]
            return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}
        name = given.get("projectName") or given.get("project")
        if name not in self.projects:
            return {"project": None}
        if "allViews" not in query:
            return {"project": {**project, "name": name}}
        found = [
            view
            for view in self.of_type(given.get("viewType", "runs"))
            if view["project"]["name"] == name and given.get("viewName") in (None, view["name"])
        ]
        page = {"edges": [{"node": view, "cursor": ""} for view in found], "pageInfo": {"hasNextPage": False}}
        return {"project": {"allViews": page}}

    def _save(self, given: dict[str, Any]) -> dict[str, Any]:
        self._saved += 1
        key = given.get("id") or base64.b64encode(f"View:{self._saved}".encode()).decode()
        view = {name: given[name] for name in ("name", "displayName", "description", "type", "spec")}
        project = {"id": "UHJvamVjdDox", "name": given["projectName"], "entityName": given["entityName"]}
        self.views[key] = view | {"id": key, "project": project, "createdAt": STAMP, "updatedAt": STAMP, "user": None}
        return self.views[key]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/graphql":  # what the library measures of itself
            return self._send(200, {})
        asked = json.loads(body)
        for word, status in self.server.refuse.items():
            if word in asked["query"]:
                return self._send(status, {"error": "the server says no"})
        self._send(200, {"data": self.server.answer(asked["query"], asked.get("variables") or {})})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *values: Any) -> None:
        pass


@contextmanager
def serve(*projects: str) -> Iterator[Server]:
    """A server with these projects, until the end of the context."""
    with Server(*projects) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
