"""A bucket on loopback, in memory: what TensorStore asks for of Google's JSON API, or of S3."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest


class Bucket(ThreadingHTTPServer):
    """Serves the objects of one bucket at `url`. `reads` lists (object, bytes) of every answer.

    Args:
      kind: "gs" or "s3"; `environment` holds the variables by which TensorStore finds it.
    """

    daemon_threads = True

    def __init__(self, kind: str = "gs"):
        super().__init__(("127.0.0.1", 0), {"gs": _Google, "s3": _Amazon}[kind])
        self.objects: dict[str, tuple[int, bytes]] = {}  # name -> (generation, content)
        self.reads: list[tuple[str, int]] = []
        self.forbids = False  # whether objects may not be read
        self.lock = threading.Lock()  # a condition and its write are one
        self.after_put: Callable[[str], object] = lambda name: None
        self.before_give: Callable[[str], object] = lambda name: None
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.environment = environment(kind, self.url)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


@contextmanager
def served(kind: str) -> Iterator[Bucket]:
    """An empty bucket at gs://bucket or s3://bucket, of this process and those that it starts."""
    server = Bucket(kind)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            yield server
    finally:
        server.close()


def environment(kind: str, url: str) -> dict[str, str]:
    """The variables with which TensorStore asks the server at `url`."""
    if kind == "gs":
        return {"TENSORSTORE_GCS_HTTP_URL": url, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none"}
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    return keys | {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: two would wait for each other for 40 ms
    server: Bucket

    def log_message(self, *_):
        pass

    def path_and_query(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}

    def names(self, prefix: str, low: str, high: str = "\x7f") -> list[str]:
        every = sorted(self.server.objects)
        return [name for name in every if name.startswith(prefix) and low <= name < high]

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def put(self, name: str, content: bytes, expected: int | None) -> int | None:
        """The new generation; None where another one than `expected` is there."""
        with self.server.lock:
            generation = self.server.objects.get(name, (0, b""))[0]
            if expected is not None and expected != generation:
                return None
            self.server.objects[name] = (generation + 1, content)
            self.server.after_put(name)
            return generation + 1

    def give(self, name: str) -> None:
        """Answers with an object, or with the part that is asked for."""
        found = self.server.objects.get(name)
        self.server.before_give(name)  # here, so that two answers may be of one moment
        if self.server.forbids:
            return self.answer(403, b"")
        if found is None:
            return self.answer(404, b"")
        generation, content = found
        status, part, more = 200, content, {}
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            begin = int(first) if first else max(0, len(content) - int(last))
            part = content[begin : int(last) + 1 if first and last else len(content)]
            if begin >= len(content):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            status = 206
            more = {"Content-Range": f"bytes {begin}-{begin + len(part) - 1}/{len(content)}"}
        self.server.reads.append((name, len(part)))
        self.answer(status, part, self.mark(generation) | more)

    def mark(self, generation: int) -> dict[str, str]:
        raise NotImplementedError

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class _Google(_Handler):
    def do_GET(self):
        path, query = self.path_and_query()
        if path.endswith("/o"):
            low, high = query.get("startOffset", ""), query.get("endOffset", "\x7f")
            names = self.names(query.get("prefix", ""), low, high)
            return self._json({"items": [self._about(name) for name in names]})
        self.give(unquote(path.split("/o/")[1]))

    def do_POST(self):
        _, query = self.path_and_query()
        expected = query.get("ifGenerationMatch")
        done = self.put(query["name"], self.content(), None if expected is None else int(expected))
        if done is None:
            return self.answer(412, b"")
        self._json(self._about(query["name"]))

    def do_DELETE(self):
        path, query = self.path_and_query()
        name = unquote(path.split("/o/")[1])
        with self.server.lock:
            generation = self.server.objects.get(name, (0, b""))[0]
            if query.get("ifGenerationMatch", str(generation)) != str(generation):
                return self.answer(412, b"")
            there = self.server.objects.pop(name, None)
        self.answer(204 if there else 404, b"")

    def mark(self, generation: int) -> dict[str, str]:
        return {"x-goog-generation": str(generation)}

    def _about(self, name: str) -> dict:
        generation, content = self.server.objects[name]
        return {"name": name, "generation": str(generation), "size": str(len(content))}

    def _json(self, value: dict):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


class _Amazon(_Handler):
    def do_GET(self):
        path, query = self.path_and_query()
        if "list-type" not in query:
            return self.give(self._name(path))
        names = self.names(query.get("prefix", ""), query.get("start-after", ""))
        keys = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.server.objects[name][1])}</Size>"
            "</Contents>"
            for name in names
        )
        about = f"<KeyCount>{len(names)}</KeyCount><IsTruncated>false</IsTruncated>"
        self.answer(200, f"<ListBucketResult>{about}{keys}</ListBucketResult>".encode())

    do_HEAD = do_GET

    def do_PUT(self):
        name, expected = self._name(urlsplit(self.path).path), None
        if self.headers.get("If-None-Match") == "*":
            expected = 0
        elif "If-Match" in self.headers:
            there = self.server.objects.get(name, (0, b""))[0]
            same = self.headers["If-Match"] == self.mark(there)["ETag"]
            expected = there if same else -1
        done = self.put(name, self.content(), expected)
        self.answer(200 if done else 412, b"", self.mark(done or 0))

    def do_DELETE(self):
        self.server.objects.pop(self._name(urlsplit(self.path).path), None)
        self.answer(204, b"")

    def mark(self, generation: int) -> dict[str, str]:
        return {"ETag": f'"{hashlib.md5(str(generation).encode()).hexdigest()}"'}

    def _name(self, path: str) -> str:
        return unquote(path).removeprefix("/bucket/")
