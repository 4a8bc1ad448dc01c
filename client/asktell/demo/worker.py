"""A training job that lets itself be tuned: ask, train, report each epoch, tell. This is the part to copy.

    python -m asktell.demo.worker HOST:PORT STUDY

Any number of these may run at once, on any machine; each knows nothing but the server's address and the study's name. The
client renews the lease of the trial in the background while it trains, and calls again, without acting twice, while the
server is being restarted.
"""

from __future__ import annotations

import json
import sys
import time

import torch

import asktell
from asktell.demo.training import Training, load_data

OUTAGE_S = 120.0  # how long the server may be away before this job gives up
ROOM_S = 0.5


def work(study: asktell.Study) -> None:
    """Evaluates trial after trial until the study is done."""
    data = load_data()
    epochs = int(study.labels["epochs"])
    while True:
        try:
            trial = study.ask()
        except (asktell.StudyCompleted, asktell.StudyNotActive):
            return
        except asktell.TrialLimitReached:  # the last trials run elsewhere; should a job die, its trial is up again
            time.sleep(ROOM_S)
            continue
        training = Training(data, trial.params, seed=study.spec.seed or 0)
        for epoch in range(1, epochs + 1):
            training.run_epoch()
            accuracy = training.accuracy(data.validation)
            if trial.report(epoch, validation_accuracy=accuracy):
                trial.tell_pruned(f"told to stop: {trial.advice.cause}")
                break
        else:
            # Nothing is chosen by the test accuracy; it is kept beside the objective for the comparison at the end.
            metrics = {"validation_accuracy": accuracy, "test_accuracy": training.accuracy(data.test)}
            trial.tell(metrics)
            print(json.dumps({"trial": trial.number, **metrics}), flush=True)  # noqa: T201 - acknowledged


def main(target: str, study: str) -> None:
    """Works for a study on a server."""
    torch.set_num_threads(1)  # the jobs run side by side
    with asktell.connect(target, timeout=OUTAGE_S, tls=False) as client:
        work(client.get_study(study))


if __name__ == "__main__":
    main(*sys.argv[1:])
