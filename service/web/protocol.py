"""HTTP/1.1 and nothing else: whoever offers another protocol is answered in this one.

httptools ends a request that offers an upgrade at its head, and takes its body for the next request
(https://github.com/MagicStack/httptools/issues/124): a JDK's client, whose default is such an
offer, would have nothing judged. A server may ignore the offer (RFC 9110, 7.8).
"""

from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

UPGRADE: Final = b"upgrade"


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

    def on_headers_complete(self) -> None:
        """Begin a request."""
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
