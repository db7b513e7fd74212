"""A TCP proxy that makes a good server look like one behind a bad network."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BLOCK = 16_384


@dataclass
class Proxy:
    """What happens to the connections; may be changed while they are open.

    Attributes:
        target: port on 127.0.0.1 of the server
        latency_seconds: before each block of bytes, in either direction
        bytes_a_second: in each direction of a connection; 0: as fast as it goes
        reset_after_bytes: of answers; a connection that has brought so many is reset, 0: at its first byte
        resets: how many connections that may happen to
        mute_after_bytes: of answers; from then on a connection stays open and brings nothing any more
        mutes: how many connections that may happen to
        opened: connections so far
        harmed: connections reset or muted so far
    """

    target: int
    latency_seconds: float = 0.0
    bytes_a_second: int = 0
    reset_after_bytes: int | None = None
    resets: int = 1_000_000
    mute_after_bytes: int | None = None
    mutes: int = 1_000_000
    port: int = 0
    opened: int = 0
    harmed: int = 0
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.opened += 1
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        directions = [
            asyncio.ensure_future(self._carry(reader, there_writer)),
            asyncio.ensure_future(self._carry_answers(there_reader, writer)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            # Not `close`, which would first send what is waiting: the peer is to see a reset.
            for end in (writer, there_writer):
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(BLOCK):
            await self._send(block, writer)

    async def _carry_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        brought = 0
        while block := await reader.read(BLOCK):
            if self._is_over(self.reset_after_bytes, brought + len(block)) and self.resets > 0:
                self.resets -= 1
                self.harmed += 1
                return
            if self._is_over(self.mute_after_bytes, brought + len(block)) and self.mutes > 0:
                self.mutes -= 1
                self.harmed += 1
                await asyncio.Event().wait()
            await self._send(block, writer)
            brought += len(block)

    @staticmethod
    def _is_over(limit: int | None, brought: int) -> bool:
        return limit is not None and brought > limit

    async def _send(self, block: bytes, writer: asyncio.StreamWriter) -> None:
        pause = self.latency_seconds + (len(block) / self.bytes_a_second if self.bytes_a_second else 0)
        if pause:
            await asyncio.sleep(pause)
        writer.write(block)
        await writer.drain()

    async def end(self) -> None:
        """Drop every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.contextmanager
def serving(target: int, **how: Any) -> Iterator[Proxy]:
    """A proxy before that port, in a thread of this process; `how` are fields of Proxy."""
    proxy, loop = Proxy(target, **how), asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(proxy.accept, "127.0.0.1", 0))
    proxy.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(proxy.end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
