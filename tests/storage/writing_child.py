"""A process that writes to the database named by its argument until it is killed; prints each acknowledged number."""

from __future__ import annotations

import asyncio
import os
import sys

from asktell_server.storage.opening import open_storage
from asktell_server.testing.samples import ask


class Silent:
    """Observes nothing."""

    def committed(self, seconds: float, works: int) -> None:
        """Takes no note."""


async def main(path: str) -> None:
    """Runs sixteen submitters at once."""
    storage = open_storage(path, observer=Silent())
    await storage.start()

    async def submit() -> None:
        while True:
            number = await storage.write(ask("default", "digits"))
            os.write(1, f"{number}\n".encode())

    await asyncio.gather(*(submit() for _ in range(16)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
