"""`make fuzz REQUESTS=1000000`: fuzzed requests to a real server for as long as it takes, in shards that can be taken up again.

A shard is 20,000 requests of one seed. Shards that passed are noted in `.fuzz/passed`, so that the same command goes on after an
interruption. Memory is compared between the first fifth of this run's shards and its end.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from ..support import ROOT, serving
from .driving import MIB, Found, Fuzzer, log_problems, resident_bytes

SHARD = 20_000
STATE = ROOT / ".fuzz" / "passed"
# The database's cache, and what the allocator keeps back, may still come after the first shards.
ALLOWANCE = 192 * MIB
FLAGS = ("--live-studies", "20", "--studies-per-worker", "8", "--workers", "1", "--log-level", "warning")


def main() -> int:
    """Runs what is left; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--restart", action="store_true", help="forget the shards that passed")
    options = parser.parse_args()
    STATE.parent.mkdir(exist_ok=True)
    if options.restart:
        STATE.unlink(missing_ok=True)
    passed = {int(line) for line in STATE.read_text().split()} if STATE.exists() else set()
    shards = [shard for shard in range(-(-options.requests // SHARD)) if shard not in passed]
    codes: Counter[str] = Counter()
    resident: list[int] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="asktell-fuzz-") as folder, serving(Path(folder), *FLAGS) as server:
        offset = 0
        for done, shard in enumerate(shards, start=1):
            fuzzer = Fuzzer(server, shard)
            try:
                asyncio.run(fuzzer.run(SHARD))
            except Found as found:
                print(f"seed {shard}: {found}", flush=True)
                return 1
            problem = log_problems(server.log, offset)
            if problem:
                print(f"seed {shard}: the log says\n{problem}", flush=True)
                return 1
            offset = server.log.stat().st_size
            codes += fuzzer.codes
            resident.append(resident_bytes(server))
            with STATE.open("a") as state:
                state.write(f"{shard}\n")
            rate = done * SHARD / (time.monotonic() - started)
            print(f"{done * SHARD:>9,} requests, {rate:6.0f}/s, memory {resident[-1] / MIB:.0f} MiB", flush=True)
        by_code: Counter[str] = Counter()
        for key, count in codes.items():
            by_code[key.split()[1]] += count
        print(f"{len(passed) * SHARD + sum(codes.values()):,} requests in all; replies {dict(by_code.most_common())}")
        if len(resident) >= 5 and resident[-1] > max(resident[: len(resident) // 5]) + ALLOWANCE:
            print(f"memory grew: {[size // MIB for size in resident]} MiB")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
