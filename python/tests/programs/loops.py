"""Servers of ASGI on one port, each with a loop in a thread of its own: `loops.py PORT`."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from contextlib import nullcontext

import uvicorn

from project.asgi import application

_LOOPS = 3


class ThreadServer(uvicorn.Server):
    """A server outside the main thread, which has no signal handlers."""

    def capture_signals(self):
        """Leaves signals to the main thread."""
        return nullcontext()


def main(port: int) -> None:
    """Serves until SIGTERM."""
    listening = []
    for _ in range(_LOOPS):
        # The kernel divides the connections.
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", port))
        listening.append(bound)
    made = [ThreadServer(uvicorn.Config(application, lifespan="off")) for _ in listening]
    # Blocked before the threads start, so that none of them receives it. A handler might not run
    # while this thread joins another: a signal just before that wait does not interrupt it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threads = [
        threading.Thread(target=lambda s=server, b=bound: asyncio.run(s.serve([b])))
        for server, bound in zip(made, listening, strict=True)
    ]
    for thread in threads:
        thread.start()
    signal.sigwait({signal.SIGTERM})
    for server in made:
        server.should_exit = True
    for thread in threads:
        thread.join()


main(int(sys.argv[1]))
