"""Tune two parameters of a function, first by the loop that asktell brings, then by hand.

    python examples/quickstart.py                                 # runs a server on quickstart.db by itself
    ASKTELL_TARGET=localhost:50051 python examples/quickstart.py  # uses a server that runs (`asktell serve`)

Run it again with more trials: it goes on where it stopped.
"""

import os
import sys

import asktell
from asktell import Categorical, Float, Int, when

SPACE = {
    "optimizer": Categorical(["adam", "sgd"]),
    "lr": Float(1e-5, 1e-1, log=True, default=1e-3),
    "momentum": Float(0.0, 0.99, when=when("optimizer", "sgd")),
    "width": Int(16, 512, log=True),
}


def objective(trial: asktell.Trial) -> float:
    """Stands for a training run: `trial.params` in, the metric to maximize out."""
    params = trial.params
    accuracy = 1.0 - abs(float(params["lr"]) - 0.01) * 5 - abs(int(params["width"]) - 128) / 2000
    accuracy += 0.02 * float(params.get("momentum", 0.0))  # only there while the optimizer is "sgd"
    for epoch in range(3):
        if trial.report(epoch, accuracy=accuracy * (epoch + 1) / 3):
            raise asktell.TrialPruned("told to stop")
    return accuracy


def main(n_trials: int) -> None:
    """Tunes until the study has `n_trials` trials, then evaluates one more by hand."""
    with asktell.connect(os.environ.get("ASKTELL_TARGET", "local:quickstart.db")) as client:
        study = client.create_study("quickstart", SPACE, maximize="accuracy", algorithm="sobol", lease=60)
        study.optimize(objective, n_trials=n_trials, n_workers=2)

        trial = study.ask()
        trial.tell(accuracy=objective(trial))

        best = study.best_trial
        assert best is not None
        print(f"best of {study.id}: trial {best.number}, accuracy {best.metrics['accuracy']:.4f}, {best.params}")
        for row in study.to_dicts()[-3:]:
            print(row["number"], row["state"], row["metrics.accuracy"], row["source"])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
