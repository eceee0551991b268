"""mlx-lm's own server as a process, on loopback, with a client that costs it little."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.answer import Answer, Ask
from bench.figure import BenchError

_HOST = "127.0.0.1"
_START_SECONDS = 300.0
_END_SECONDS = 10.0
_READ_BYTES = 1 << 16
# Its listener holds five connections that it has not taken yet; one that finds no room is tried again after a second.
_BETWEEN_CONNECTIONS = 0.004


class _Stream:
    """An answer as it comes: the events, and what is left of an unfinished one."""

    def __init__(self, connection: socket.socket, answer: Answer) -> None:
        self.connection = connection
        self.answer = answer
        self.events: list[bytes] = []
        self._data = b""

    def take(self, data: bytes, now: float) -> None:
        """Take a piece of the response. Nothing is parsed before the end: the server runs on the same cores."""
        *whole, self._data = (self._data + data).split(b"\n\n")
        for event in whole:
            if b'"content":' in event:
                self.answer.times.append(now)
            self.events.append(event)

    def finish(self) -> None:
        """Read the events, at the end of the response."""
        self.answer.ended = True
        usage: dict[str, Any] | None = None
        for event in self.events:
            for line in event.split(b"\n"):
                if not line.startswith(b"data: {"):
                    continue
                body = json.loads(line[len(b"data: ") :])
                for choice in body["choices"]:
                    self.answer.text += choice["delta"].get("content") or ""
                usage = body.get("usage") or usage
        if usage is None:
            said = b"\n".join([*self.events, self._data])[-500:].decode("utf-8", "replace")
            raise BenchError(f"the server's answer has no end: {said}")
        self.answer.prompt_tokens = usage["prompt_tokens"]
        self.answer.completion_tokens = usage["completion_tokens"]
        self.answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


class Server:
    """`mlx_lm server` that has a model. It implements Endpoint."""

    def __init__(self, folder: Path) -> None:
        """Start it on a free port and wait until it answers."""
        self.answers: dict[str, Answer] = {}
        self._streams: dict[str, _Stream] = {}
        self._ready = selectors.DefaultSelector()
        with socket.create_server((_HOST, 0)) as probe:
            self._port = probe.getsockname()[1]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        where = ["--host", _HOST, "--port", str(self._port), "--log-level", "ERROR"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder), *where],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=os.environ,
        )
        try:
            self._await_start()
        except BaseException:
            self.close()
            raise

    def _await_start(self) -> None:
        deadline = time.perf_counter() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((_HOST, self._port), 1) as connection:
                connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                if b" 200 " in connection.recv(_READ_BYTES).split(b"\r\n")[0]:
                    return
            if self._process.poll() is not None or time.perf_counter() > deadline:
                raise BenchError(f"mlx-lm's server did not start: {self.said()}")
            time.sleep(0.05)

    def send(self, asks: list[Ask]) -> None:
        """Send requests, all at once, on connections that are open before."""
        connections = []
        for _ in asks:
            connections.append(socket.create_connection((_HOST, self._port), _END_SECONDS))
            time.sleep(_BETWEEN_CONNECTIONS)
        for ask, connection in zip(asks, connections, strict=True):
            body = json.dumps(
                {
                    "messages": ask.messages,
                    "max_tokens": ask.max_tokens,
                    "temperature": 0,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
            ).encode()
            head = f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
            stream = _Stream(connection, Answer(time.perf_counter()))
            self.answers[ask.id], self._streams[ask.id] = stream.answer, stream
            connection.sendall(head.encode() + body)
            connection.setblocking(False)
            self._ready.register(connection, selectors.EVENT_READ, ask.id)

    def poll(self, seconds: float) -> None:
        """Take in what came, after waiting for it at most so long."""
        if not self._streams:
            time.sleep(min(seconds, 0.01))
            return
        for key, _ in self._ready.select(seconds):
            stream = self._streams[key.data]
            data = stream.connection.recv(_READ_BYTES)
            if data:
                stream.take(data, time.perf_counter())
                continue
            self._drop(key.data)
            stream.finish()

    def cancel(self, request: str) -> None:
        """Give a request up, as its clients do: the connection is closed."""
        if request in self._streams:
            self._drop(request).answer.ended = True

    def close(self) -> None:
        """End the process."""
        for request in list(self._streams):
            self._drop(request)
        self._ready.close()
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _drop(self, request: str) -> _Stream:
        stream = self._streams.pop(request)
        self._ready.unregister(stream.connection)
        stream.connection.close()
        return stream

    def said(self) -> str:
        """Return the end of its log."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), 2000, max(0, size - 2000)).decode("utf-8", "replace").strip()
