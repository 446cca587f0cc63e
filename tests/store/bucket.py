"""A bucket on loopback: as much of Google's JSON API as TensorStore asks for, in memory."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket(ThreadingHTTPServer):
    """Serves objects at `url`; give it to TensorStore as TENSORSTORE_GCS_HTTP_URL. `reads` lists
    (object, bytes) of every answer.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[int, bytes]] = {}  # name -> (generation, content)
        self.reads: list[tuple[str, int]] = []
        self.forbids = False  # whether objects may not be read
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def log_message(self, *_):
        pass

    def do_GET(self):
        path, query = self._path()
        if path.endswith("/o"):
            low, high = query.get("startOffset", ""), query.get("endOffset", "\x7f")
            names = sorted(
                name
                for name in self.server.objects
                if name.startswith(query.get("prefix", "")) and low <= name < high
            )
            return self._json({"items": [self._about(name) for name in names]})
        name = unquote(path.split("/o/")[1])
        if self.server.forbids:
            return self._answer(403, b"")
        if name not in self.server.objects:
            return self._answer(404, b"")
        generation, content = self.server.objects[name]
        status, part = 200, content
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            begin = int(first) if first else max(0, len(content) - int(last))
            end = int(last) + 1 if first and last else len(content)
            status, part = 206, content[begin:end]
            end = begin + len(part)
        self.server.reads.append((name, len(part)))
        more = {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"} if status == 206 else {}
        return self._answer(status, part, {"x-goog-generation": str(generation), **more})

    def do_POST(self):
        _, query = self._path()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        generation = self.server.objects.get(query["name"], (0, b""))[0] + 1
        self.server.objects[query["name"]] = (generation, content)
        self._json(self._about(query["name"]))

    def do_DELETE(self):
        path, _ = self._path()
        self._answer(
            204 if self.server.objects.pop(unquote(path.split("/o/")[1]), None) else 404, b""
        )

    def _path(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}

    def _about(self, name: str) -> dict:
        generation, content = self.server.objects[name]
        return {"name": name, "generation": str(generation), "size": str(len(content))}

    def _json(self, value: dict):
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
