"""AskTell for asyncio: the surface of `asktell`, with `await`.

async with await asktell.aio.connect("localhost:50051") as client:
    study = await client.create_study("digits", space, maximize="accuracy")
    await study.optimize(objective, n_trials=50, n_workers=8)     # objective is an async function
    trial = await study.ask()
    await trial.tell(accuracy=0.93)
    best = await study.best_trial()
"""

from asktell.aio.client import AsyncClient, connect, create_study, get_study
from asktell.aio.study import AsyncStudy, AsyncTrial

__all__ = ["AsyncClient", "AsyncStudy", "AsyncTrial", "connect", "create_study", "get_study"]
