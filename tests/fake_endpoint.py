"""A served model on this machine: OpenAI's interface over HTTP, with whatever can go wrong with one.

Its answer to a conversation depends on what was asked alone, and says so: `echo`. How it behaves is a function of what is asked
and of how often this was asked before.
"""

import contextlib
import dataclasses
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "toy"


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request. `nth`: how often exactly this was asked, counted from 1."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    nth: int

    @property
    def text(self) -> str:
        """The last message, or the prompt."""
        return str(self.body["messages"][-1]["content"] if "messages" in self.body else self.body["prompt"])


@dataclasses.dataclass(frozen=True)
class Reply:
    """`body` is JSON unless it is bytes. `promised`: so many bytes more are announced than come, and then the line is cut; a
    status of 0 cuts it at once. `delay`: seconds before the reply."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    promised: int = 0


def answer(asked: Asked, text: str, finish: str = "stop", **more: Any) -> Reply:
    """A good one, of the endpoint that was asked."""
    choice = {"message": {"role": "assistant", "content": text}} if "messages" in asked.body else {"text": text}
    usage = {"prompt_tokens": len(asked.text.split()), "completion_tokens": len(text.split()) + 1}
    return Reply({"object": "completion", "choices": [{"index": 0, "finish_reason": finish, **choice}], "usage": usage}, **more)


def first_token(asked: Asked, top_logprobs: dict[str, float]) -> Reply:
    """The chat endpoint's reply of one token, the first of these, with their log-probabilities."""
    token = next(iter(top_logprobs))
    listed = [{"token": text, "logprob": logprob} for text, logprob in top_logprobs.items()]
    reply = answer(asked, token, "length").body
    reply["choices"][0]["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
    return Reply(reply)


def echo(asked: Asked) -> Reply:
    return answer(asked, f"jibu kwa {asked.text} #{asked.body['seed']}")


class Endpoint(ThreadingHTTPServer):
    """`asked`: all requests so far, in the order in which they came. `most`: how many were under way at once."""

    request_queue_size = 200
    daemon_threads = True

    def __init__(self, behave: Callable[[Asked], Reply], models: Reply | None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave, self.models = behave, models or Reply({"object": "list", "data": [{"id": MODEL}]})
        self.asked: list[Asked] = []
        self.most = self.now = 0
        self.over, self.lock = threading.Event(), threading.Lock()
        self._times: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def times(self, text: str) -> int:
        """How often a conversation that ends with this was asked."""
        return sum(asked.text == text for asked in self.asked)

    @contextlib.contextmanager
    def under_way(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Iterator[Asked]:
        with self.lock:
            said = json.dumps(body, sort_keys=True)
            self._times[said] += 1
            self.asked.append(asked := Asked(path, headers, body, self._times[said]))
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            yield asked
        finally:
            with self.lock:
                self.now -= 1

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is nobody's concern."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_GET(self) -> None:
        self._send(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.under_way(self.path, headers, body) as asked:
            reply = self.server.behave(asked)
            self.server.over.wait(reply.delay)
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        if reply.status == 0:
            self.close_connection = True
            return
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        length = str(len(data) + reply.promised)
        for name, value in {"Content-Type": "application/json", "Content-Length": length, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = bool(reply.promised)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@contextlib.contextmanager
def served(behave: Callable[[Asked], Reply] = echo, models: Reply | None = None) -> Iterator[Endpoint]:
    endpoint = Endpoint(behave, models)
    threading.Thread(target=endpoint.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield endpoint
    finally:
        endpoint.over.set()
        endpoint.shutdown()
        endpoint.server_close()


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.005)
