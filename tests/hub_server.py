"""A Hugging Face hub on loopback: what its client asks for, and every way in which a server can fail it."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """Serves files under /{repo}/resolve/{revision}/{name}.

    Attributes:
      files: (repo, name) -> content.
      fault: None, "cut" (breaks off half-way), "corrupt" (other bytes of the same length), "wrong_hash" (announces
        another hash), "stalled" (never answers), "slow" (answers in small pieces) or "broken" (status 500).
      requests: (method, path) of each.
    """

    def __init__(self):
        self.files, self.fault, self.requests = {}, None, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.stop = threading.Event()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request, body):
        self.requests.append((request.command, request.path))
        repo, _, rest = request.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if self.fault == "stalled":
            self.stop.wait(30)
            return
        if self.fault == "broken":
            return self.refuse(request, 500, "")
        if not any(repo == known for known, _ in self.files):
            return self.refuse(request, 404, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self.refuse(request, 404, "RevisionNotFound")
        if (repo, name) not in self.files:
            return self.refuse(request, 404, "EntryNotFound")
        content = self.files[repo, name]
        digest = hashlib.sha256(b"another" if self.fault == "wrong_hash" else content).hexdigest()
        request.send_response(200)
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("ETag", f'"{digest}"')
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            self.send(request, content)

    def send(self, request, content):
        if self.fault == "cut":
            request.wfile.write(content[: len(content) // 2])
        elif self.fault == "corrupt":
            request.wfile.write(content[:-64] + bytes(64 * [0xAA]))
        elif self.fault == "slow":
            step = len(content) // 5 + 1
            for start in range(0, len(content), step):
                request.wfile.write(content[start : start + step])
                request.wfile.flush()
                time.sleep(0.05)
        else:
            request.wfile.write(content)

    def refuse(self, request, status, code):
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()
