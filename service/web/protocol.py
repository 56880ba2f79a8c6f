"""HTTP/1.1 and nothing else: whoever offers another protocol is answered in this one.

httptools ends a request that offers an upgrade at its head, and takes its body for the next request
(https://github.com/MagicStack/httptools/issues/124): a JDK's client, whose default is such an
offer, would have nothing judged. A server may ignore the offer (RFC 9110, 7.8).

A head has a minute to come, as nginx gives it: uvicorn waits for ever for one that was begun.
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

UPGRADE: Final = b"upgrade"
HEAD_SECONDS: Final = 60.0
LATE: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Parser(httptools.HttpRequestParser):
    """A parser that reads a head which offers an upgrade again, without the offer."""

    def __init__(self, protocol: "Protocol") -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Read the bytes that have come.

        Raises:
            HttpParserError: where it is no HTTP/1.1, or asks for a tunnel.
        """
        while True:
            try:
                super().feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self.get_method() == b"CONNECT":
                    raise httptools.HttpParserError("there are no tunnels here") from None
                super().feed_data(self._protocol.head())
                # Not a copy: one segment may hold a thousand such heads.
                data = memoryview(data)[offer.args[0] :]
            else:
                return


class Protocol(HttpToolsProtocol):
    """A connection; a head that offers an upgrade is not heard until it is read again."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.parser = Parser(self)
        # As uvicorn sets it.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._late: asyncio.TimerHandle | None = None
        self._begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._head_came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Wait for the rest of a head; for a next one uvicorn waits for as long as it is told."""
        super().on_message_begin()
        self._begun = True
        if self._late is None:
            self._await_head()

    def _await_head(self) -> None:
        self._late = self.loop.call_later(HEAD_SECONDS, self._end)

    def _head_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late, self._begun = None, False

    def _end(self) -> None:
        # A request before it may still be answered.
        if self.cycle is None or self.cycle.response_complete:
            # To who has asked nothing yet, an answer would be one to what is asked next.
            if self._begun:
                self.transport.write(LATE)
            self.transport.close()
        else:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Begin a request."""
        self._head_came()
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def head(self) -> bytes:
        """The head that was read last, without an offer to upgrade."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += (name + b": " + value for name, value in self.headers if name != UPGRADE)
        return b"\r\n".join([*lines, b"", b""])
