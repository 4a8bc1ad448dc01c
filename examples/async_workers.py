"""Evaluate many trials at once from one thread: for objectives that wait for something else, such as a cluster's jobs.

python examples/async_workers.py                                 # runs a server in memory by itself
ASKTELL_TARGET=localhost:50051 python examples/async_workers.py  # uses a server that runs
"""

import asyncio
import os
import sys

from asktell import Float, aio

SPACE = {"x": Float(-5.0, 10.0), "y": Float(0.0, 15.0)}


async def objective(trial: aio.AsyncTrial) -> dict[str, float]:
    """Stands for a job elsewhere that is waited for."""
    await asyncio.sleep(0.05)
    x, y = float(trial.params["x"]), float(trial.params["y"])
    return {"loss": (x - 3.0) ** 2 + (y - 2.0) ** 2, "distance": abs(x) + abs(y)}


async def main(n_trials: int) -> None:
    """Eight tasks share the work."""
    async with await aio.connect(os.environ.get("ASKTELL_TARGET", "local:")) as client:
        study = await client.create_study("async-workers", SPACE, minimize="loss", algorithm="random", lease=60)
        await study.optimize(objective, n_trials=n_trials, n_workers=8)

        best = await study.best_trial()
        assert best is not None
        print(f"best: trial {best.number}, loss {best.metrics['loss']:.3f}, {best.params}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40))
