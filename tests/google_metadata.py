"""What does a machine of Google's say about itself? Stands in for the server that it asks, on the loopback."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer


@contextlib.contextmanager
def metadata(values: dict[str, str]) -> Iterator[str]:
    """Serves attributes of a machine; what JAX wants to find as GCE_METADATA_IP."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            value = values.get(self.path.rsplit("/", 1)[1])
            self.send_response(404 if value is None else 200)
            self.end_headers()
            self.wfile.write((value or "<html>There is no such attribute, sorry.").encode())

        def log_message(self, *_) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
