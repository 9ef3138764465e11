"""A bucket on this machine: gcp-storage-emulator from PyPI, made strict.

Alone it knows nothing of generations, by which a client overwrites exactly the object that it has read (tensorstore insists on
them), lists the whole bucket where a client asks for a range of names, and does not move objects. These three are added here, as
https://cloud.google.com/storage/docs/json_api describes them.
"""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAME = "bucket"
REFUSES = {"closed": {"GET", "POST"}, "read-only": {"POST"}}  # other buckets, where this is not permitted


@contextlib.contextmanager
def served() -> Iterator[None]:
    """An empty bucket, which all clients in this process and its children then take for one of Google's."""
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.storage import Storage

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    logging.getLogger("api.object").setLevel(logging.CRITICAL)
    moves = (r"^/storage/v1/b/(?P<bucket_name>[^/]+)/o/(?P<object_id>.+)/moveTo/o/(?P<dest_object_id>.+)$", {"POST": _move})
    routes = [moves, *server.HANDLERS]
    server.HANDLERS = [(path, {verb: _strict(handler) for verb, handler in verbs.items()}) for path, verbs in routes]
    storage = Storage(use_memory_fs=True)
    for name in (NAME, *REFUSES):
        buckets.create_bucket(name, storage)
    emulator = _Server(("127.0.0.1", 0), partial(server.RequestHandler, storage))
    threading.Thread(target=emulator.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{emulator.server_port}"
    before = dict(os.environ)
    os.environ |= {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs, and Google's own package, which Orbax and tensorboardX use
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GOOGLE_CLOUD_PROJECT": "none",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # or gcsfs asks Google itself what kind of bucket it is
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
        emulator.shutdown()
        emulator.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 100
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is nobody's concern."""


_one_at_a_time = threading.Lock()  # the emulator's storage is not made for threads


def _strict(handler: Callable[..., None]) -> Callable[..., None]:
    """With generations, and with refusals."""

    def handle(request: Any, response: Any, storage: Any) -> None:
        body = request.data
        bucket = request.params.get("bucket_name")
        with _one_at_a_time:
            meta = body["meta"] if isinstance(body, dict) and "meta" in body else {}
            name = request.params.get("object_id") or request.query.get("name", [meta.get("name")])[0]
            found = storage.objects.get(bucket, {}).get(name, {}).get("generation", "0")
            if request.method in REFUSES.get(bucket, ()):
                response.status = HTTPStatus.FORBIDDEN
            elif request.query.get("ifGenerationMatch", [found])[0] != found:
                response.status = HTTPStatus.PRECONDITION_FAILED
            elif request.query.get("ifGenerationNotMatch", [""])[0] == found:
                response.status = HTTPStatus.NOT_MODIFIED
            else:
                handler(request, response, storage)
                response["X-Goog-Generation"] = found
                if {"startOffset", "endOffset"} & request.query.keys():
                    _cut(response, request.query.get("startOffset", [""])[0], request.query.get("endOffset", [None])[0])

    return handle


def _cut(response: Any, start: str, end: str | None) -> None:
    """A listing without the names before `start`, and those from `end` on."""
    listing = json.loads(response._content)
    listing["items"] = [item for item in listing["items"] if start <= item["name"] and (not end or item["name"] < end)]
    response.json(listing)


def _move(request: Any, response: Any, storage: Any) -> None:
    from gcp_storage_emulator.handlers import objects

    at = request.params
    response.json(
        objects._copy(request.base_url, storage, at["bucket_name"], at["object_id"], at["bucket_name"], at["dest_object_id"])
    )
    objects._delete(storage, at["bucket_name"], at["object_id"])


def put(folder: Path, to: Path) -> None:
    """Copies a folder into the bucket."""
    for path in folder.rglob("*"):
        if path.is_file():
            (to / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
