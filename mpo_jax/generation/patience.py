"""When is a server asked again, and by how many requests at once?"""

import asyncio
import contextlib
import dataclasses
import email.utils
import random
import time
from collections.abc import AsyncIterator, Mapping

from mpo_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Patience:
    """An answer that fails is asked for up to `attempts` times, each time after twice the wait, from `first` to `longest`
    seconds; where the server is busy (429), up to `busy_attempts` times. `timeout`: seconds that one answer may take. A server
    that asks for a wait of more than `most_asked` seconds gets none."""

    attempts: int = 8
    busy_attempts: int = 100
    first: float = 0.5
    longest: float = 60.0
    timeout: float = 600.0
    most_asked: float = 600.0

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise InputError(f"timeout={self.timeout:g} must be above 0: the seconds that an answer may take.")

    def wait(self, failures: int, asked: float | None) -> float:
        """Seconds before the next attempt, after so many failures. `asked`: what the server asked for. A random part keeps
        requests that failed together from coming back together."""
        if asked is not None:
            return asked + random.uniform(0, self.first)
        return min(self.longest, self.first * 2 ** (failures - 1)) * random.uniform(0.5, 1)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait: its Retry-After is a number of them or a date."""
    given = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        seconds = float(given)
        return max(seconds, 0.0) if seconds == seconds else None
    with contextlib.suppress(ValueError):
        return max(email.utils.parsedate_to_datetime(given).timestamp() - time.time(), 0.0)
    return None


class Limit:
    """How many requests may be under way: at first and at most `most`, half as many each time the server is busy, and one more
    whenever as many as are allowed have succeeded in a row, as TCP does it (Chiu and Jain, 1989)."""

    def __init__(self, most: int):
        self.most = self.now = most
        self._under_way = self._succeeded = 0
        self._halved = float("-inf")
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def one_more(self) -> AsyncIterator[None]:
        """Entered as soon as another request may be sent."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._under_way < self.now)
            self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            async with self._changed:
                self._changed.notify_all()

    def busy(self, sent: float) -> None:
        """The server was too busy for a request sent at this time (of `time.monotonic`). Requests that were under way together
        count once."""
        if sent > self._halved:
            self.now, self._succeeded, self._halved = max(self.now // 2, 1), 0, time.monotonic()

    def succeeded(self) -> None:
        self._succeeded += 1
        if self._succeeded >= self.now and self.now < self.most:
            self.now, self._succeeded = self.now + 1, 0
