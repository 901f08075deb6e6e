"""What `run_stream` and `stream` give: an iterator of chunks, async or plain.

Classes with `__anext__` and not generators: a stream that is dropped half-way posts its own cancel, and no scope is
ever left open around a yield. Whoever keeps the object uses it as a context manager.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from cortex.errors import ConfigError, CortexError
from cortex.host import Feed
from cortex.results import Chunk, Completion


class _Base:
    """What both kinds share: the feed is opened by the first use."""

    def __init__(self, open_feed: Callable[[], Feed]) -> None:
        self._open = open_feed
        self._feed: Feed | None = None
        self._response: Completion | None = None
        self._over = False

    @property
    def response(self) -> Completion:
        """The whole answer with its metadata, once the stream is over. CortexError before, and if it never came."""
        if self._response is None:
            why = "it ended without a whole answer" if self._over else "read it to its end first"
            raise CortexError(f"the stream has no response: {why}")
        return self._response

    def _started(self) -> Feed:
        if self._feed is None:
            self._feed = self._open()
        return self._feed

    def _seen(self, chunk: Chunk | None) -> Chunk | None:
        if chunk is None:
            self._over = True
        elif chunk.response is not None:
            self._response = chunk.response
        return chunk

    def __repr__(self) -> str:
        state = "over" if self._over else "running" if self._feed is not None else "not begun"
        return f"<{type(self).__name__} {state}>"


class Stream(_Base):
    """Chunks as they come: `async for chunk in stream`, or first `async with stream`.

    What ends it is raised once; then it is over. A cancel while it waits for a chunk loses none: it can be read on.
    It has one reader, in the loop that began to read it; ConfigError elsewhere.
    """

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Chunk:
        if self._over:
            raise StopAsyncIteration
        try:
            chunk = self._seen(await self._started().take())
        except ConfigError:
            raise  # a mistake of this reader: the stream itself is well
        except Exception:
            self._over = True
            raise
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Cancel what is under way and wait until its socket is closed. From any loop; may be called twice."""
        self._over = True
        if self._feed is not None:
            await self._feed.close()

    async def __aenter__(self) -> Stream:
        if not self._over:
            self._started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class SyncStream(_Base):
    """Chunks as they come, for plain threads: `for chunk in stream`, `close()`, or `with stream`."""

    def __iter__(self) -> SyncStream:
        return self

    def __next__(self) -> Chunk:
        if self._over:
            raise StopIteration
        try:
            chunk = self._seen(self._started().take_sync())
        except ConfigError:
            raise
        except Exception:
            self._over = True
            raise
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Cancel what is under way and wait until its socket is closed. From any thread; may be called twice."""
        self._over = True
        if self._feed is not None:
            self._feed.close_sync()

    def __enter__(self) -> SyncStream:
        if not self._over:
            self._started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
