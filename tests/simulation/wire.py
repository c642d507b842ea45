"""What lies between a client and the broker. The plain wire loses nothing; that of a schedule is in `world.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from tests.simulation.broker import Broker

T = TypeVar("T")


class Lost(Exception):
    """No answer came. `code` is what the client notices, `seconds` how long it takes to."""

    def __init__(self, code: int, seconds: float) -> None:
        super().__init__(code)
        self.code = code
        self.seconds = seconds


class Wire(Protocol):
    """The line of one client, and what its process is doing."""

    broker: Broker

    def now(self) -> float:
        """Seconds."""

    def time_ms(self) -> int:
        """Milliseconds since 1970."""

    def sleep(self, seconds: float) -> None:
        """The calling thread waits; everything else goes on."""

    def deliver(self, name: str, request: Callable[[], T]) -> T:
        """Bring a request to the broker and its answer back.

        Raises:
            Refusal: the answer is an error. Lost: there is none.
        """

    def enter(self, call: str) -> None:
        """The application calls the client: a process that is dead does not."""

    def up(self) -> bool:
        """Whether the process runs and its line works: the client's own threads do what they do."""

    def sends_ahead(self) -> bool:
        """Whether the client's own thread sends what is queued before anybody waits for it."""

    def mistakes_loss(self) -> bool:
        """Whether the client says "revoked" of what is lost already (librdkafka PR #5604)."""


class PlainWire:
    """Everything arrives at once."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def now(self) -> float:
        return self.broker.now

    def time_ms(self) -> int:
        return round(self.broker.now * 1000)

    def sleep(self, seconds: float) -> None:
        self.broker.advance(self.broker.now + seconds)

    def deliver(self, name: str, request: Callable[[], T]) -> T:
        return request()

    def enter(self, call: str) -> None:
        """Always alive."""

    def up(self) -> bool:
        return True

    def sends_ahead(self) -> bool:
        return False

    def mistakes_loss(self) -> bool:
        return False
