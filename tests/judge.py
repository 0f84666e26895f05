"""A server with OpenAI's chat API on this machine, which answers as a test says: slowly, with errors, or with nonsense."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = tuple[float, int, str]
"""Seconds until it comes, status, and what it says."""


class JudgeServer:
    """Answers in as many threads as are asked for.

    Args:
        answer: (what was asked, how often that was asked before) -> answer.
    """

    def __init__(self, answer: Callable[[str, int], Answer]) -> None:
        self.asked: list[str] = []
        self.most = 0
        """Questions at the same time."""
        now, lock, outer = [0], threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = body["messages"][-1]["content"]
                with lock:
                    before = outer.asked.count(question)
                    outer.asked.append(question)
                    now[0] += 1
                    outer.most = max(outer.most, now[0])
                seconds, status, text = answer(question, before)
                time.sleep(seconds)
                data = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
                with lock:
                    now[0] -= 1
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # who asked waits no more
                    self.close_connection = True

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
