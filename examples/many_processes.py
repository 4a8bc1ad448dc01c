"""Share one study among worker processes: each asks and tells for itself, and the server keeps them apart.

    python examples/many_processes.py                                 # runs a server on many_processes.db by itself
    ASKTELL_TARGET=localhost:50051 python examples/many_processes.py  # uses a server that runs

Workers may as well run on other machines: a target and a study's name are all that they need. Start them with "spawn":
gRPC does not survive a fork. A worker that dies loses nothing but time: its trial's lease runs out, and its parameters
go to another one.
"""

import multiprocessing
import os
import sys

import asktell
from asktell import Discrete, Float


def objective(trial: asktell.Trial) -> float:
    """Stands for a training run."""
    return abs(float(trial.params["lr"]) - 0.01) + 1.0 / int(trial.params["batch_size"])


def work(target: str, study: str) -> None:
    """What each process does, until the study is done."""
    with asktell.connect(target) as client:
        client.get_study(study).optimize(objective, progress=False)


def main(max_trials: int) -> None:
    """Starts three workers and waits for them."""
    space = {"lr": Float(1e-5, 1e-1, log=True), "batch_size": Discrete([16, 32, 64, 128], log=True)}
    with asktell.connect(os.environ.get("ASKTELL_TARGET", "local:many_processes.db")) as client:
        study = client.create_study(
            "many-processes", space, minimize="loss", algorithm="sobol", lease=30, max_trials=max_trials
        )
        spawn = multiprocessing.get_context("spawn")
        workers = [spawn.Process(target=work, args=(client.target, study.name)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        study.reload()
        best = study.best_trial
        assert best is not None
        hands = {row["worker"] for row in study.to_dicts()}
        print(f"{study.state}: {study.trial_counts.succeeded} trials by {len(hands)} workers")
        print(f"best: trial {best.number}, loss {best.metrics['loss']:.4f}, {best.params}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 24)
