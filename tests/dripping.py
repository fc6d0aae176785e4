"""A server that never comes to an end: what waits for each byte anew waits for ever."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Answers whose head, or whose body, never ends.
HEAD: Final = b"HTTP/1.1 200 OK\r\nx-drip: "
BODY: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"


@contextmanager
def dripping(beginning: bytes) -> Iterator[str]:
    """The address of a server that answers with this, and then with a blank every 20 ms until it is left."""
    over = threading.Event()

    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                self.request.recv(65536)
                self.request.sendall(beginning)
                while not over.wait(0.02):
                    self.request.sendall(b" ")
            except OSError:
                pass  # it was left

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            over.set()
            server.shutdown()
            thread.join()
