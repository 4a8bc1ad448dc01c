"""Real tuning on the data sets that scikit-learn ships: what AskTell is for.

A trial trains a model on one of five splits of the data, drawn for the trial, three parts of five for training; so
results are noisy as they are in life. The truth of a point is its mean over the five splits, which is exactly what a
trial measures on average. The data are subsampled until a trial takes well under a second on one core. What was once
measured is kept on disk (cache.py), for a model trained on one split is always the same.

The value is the log loss, or the error rate where a model gives no probabilities, or 1 - R². Nobody knows the optima:
regrets are measured from the best truth that any peer found in the results at hand.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ..space import Point, Space, choice, integer, ordinal, real, when
from .base import COARSE_FLOOR, Instance, Outcome, Problem, Tag
from .cache import cached

SPLITS = 5
Loss = Literal["log loss", "error", "1 - R2"]
# Builds an estimator, not yet fitted, for an active point.
Build = Callable[[Point], Any]


@functools.cache
def _data(name: str) -> tuple[Any, Any]:
    """Features, standardised, and targets of a bundled data set; a fixed sample of at most 600 rows."""
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    loaded = getattr(datasets, f"load_{name}")()
    x, y = loaded.data, loaded.target
    if len(y) > 600:
        keep = np.random.default_rng(0).permutation(len(y))[:600]
        x, y = x[keep], y[keep]
    if name == "diabetes":
        y = (y - y.mean()) / y.std()
    return StandardScaler().fit_transform(x), y


def _measured(data: str, loss: Loss, build: Build, point: Point, split: int) -> float:
    """The loss of a model on the held-out part of one split."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split

    x, y = _data(data)
    stratify = None if loss == "1 - R2" else y
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.4, random_state=split, stratify=stratify)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trial with bad parameters may well not converge
        model = build(point).fit(train_x, train_y)
        if loss == "log loss":
            probabilities = np.clip(np.nan_to_num(model.predict_proba(test_x), nan=1e-6), 1e-6, 1.0)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            return float(log_loss(test_y, probabilities, labels=np.unique(y)))
        if loss == "error":
            return float(1 - model.score(test_x, test_y))
        predicted = np.nan_to_num(np.asarray(model.predict(test_x)), nan=1e3, posinf=1e3, neginf=-1e3)
        # A diverged model is about as bad as one that is 3 times worse than the mean.
        return min(float(np.mean((predicted - test_y) ** 2) / np.var(test_y)), 3.0)


def _instance(name: str, space: Space, data: str, loss: Loss, build: Build) -> Instance:
    def measured(point: Point, split: int) -> float:
        return cached(name, point, split, lambda: _measured(data, loss, build, point, split))

    def truth(point: Point) -> Outcome:
        return Outcome((float(np.mean([measured(point, split) for split in range(SPLITS)])),))

    def observe(point: Point, rng: np.random.Generator) -> Outcome:
        return Outcome((measured(point, int(rng.integers(SPLITS))),))

    return Instance(space, truth, observe=observe)


def tuning(name: str, budget: int, space: Space, data: str, loss: Loss, build: Build, *more: Tag) -> Problem:
    """A problem in which a model of scikit-learn is tuned."""
    return Problem(
        name,
        ("real-hpo", *more),
        budget,
        lambda _seed: _instance(name, space, data, loss, build),
        noisy=True,
        cheap=False,
        floor=COARSE_FLOOR,
        source=f"scikit-learn, data set {data}",
    )


def _svm(point: Point) -> Any:
    from sklearn.svm import SVC

    return SVC(
        C=float(point["C"]),
        kernel=str(point.get("kernel", "rbf")),
        gamma=float(point.get("gamma", 1.0)),
        degree=int(point.get("degree", 3)),
        coef0=float(point.get("coef0", 0.0)),
        max_iter=20_000,
        random_state=0,
    )


def _boosting(point: Point) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(
        learning_rate=float(point["learning_rate"]),
        n_estimators=int(point["n_estimators"]),
        max_depth=int(point["max_depth"]),
        subsample=float(point["subsample"]),
        min_samples_leaf=int(point["min_samples_leaf"]),
        max_features=float(point["max_features"]),
        loss=str(point["loss"]),
        random_state=0,
    )


def _forest(point: Point) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        n_estimators=int(point["n_estimators"]),
        max_depth=int(point["max_depth"]),
        max_features=float(point["max_features"]),
        min_samples_leaf=int(point.get("min_samples_leaf", 1)),
        criterion=str(point["criterion"]),
        bootstrap=bool(point.get("bootstrap", True)),
        random_state=0,
    )


def mlp(point: Point) -> Any:
    """A network of one or two layers."""
    from sklearn.neural_network import MLPClassifier

    hidden = (int(point["units"]),) + ((int(point["units2"]),) if "units2" in point else ())
    return MLPClassifier(
        hidden_layer_sizes=hidden,
        activation=str(point["activation"]),
        alpha=float(point["alpha"]),
        learning_rate_init=float(point["learning_rate"]),
        batch_size=int(point["batch_size"]),
        beta_1=1 - float(point.get("one_minus_beta1", 0.1)),
        max_iter=20,
        random_state=0,
    )


def _logistic(point: Point) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        C=float(point["C"]),
        l1_ratio=float(point["l1_ratio"]),
        solver="saga",
        max_iter=int(point["max_iter"]),
        tol=float(point["tol"]),
        fit_intercept=bool(point["fit_intercept"]),
        random_state=0,
    )


def _chosen(point: Point) -> Any:
    """The classifier that `classifier` names, with its own parameters (whose names begin with its)."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    name = str(point["classifier"])
    own: Point = {key.removeprefix(f"{name}."): value for key, value in point.items() if key.startswith(f"{name}.")}
    if name == "svm":
        return CalibratedClassifierCV(_svm(own), cv=2, ensemble=False)
    if name == "forest":
        return _forest(own | {"criterion": "gini"})
    if name == "neighbours":
        return KNeighborsClassifier(
            n_neighbors=int(own["k"]), weights=str(own["weights"]), p=1 if own["metric"] == "manhattan" else 2
        )
    return LogisticRegression(C=float(own["C"]), solver="lbfgs", max_iter=200)


def _choice_of_classifier() -> Space:
    svm, forest = when("classifier", "svm"), when("classifier", "forest")
    neighbours, logistic = when("classifier", "neighbours"), when("classifier", "logistic")
    return (
        choice("classifier", ["svm", "forest", "neighbours", "logistic"]),
        real("svm.C", 1e-3, 1e3, log=True, when=svm),
        choice("svm.kernel", ["rbf", "poly", "linear"], when=svm),
        real("svm.gamma", 1e-5, 10.0, log=True, when=when("svm.kernel", "rbf", "poly")),
        integer("svm.degree", 2, 5, when=when("svm.kernel", "poly")),
        integer("forest.n_estimators", 5, 80, log=True, when=forest),
        integer("forest.max_depth", 1, 20, when=forest),
        real("forest.max_features", 0.02, 1.0, log=True, when=forest),
        integer("neighbours.k", 1, 50, log=True, when=neighbours),
        choice("neighbours.weights", ["uniform", "distance"], when=neighbours),
        choice("neighbours.metric", ["manhattan", "euclidean"], when=neighbours),
        real("logistic.C", 1e-4, 1e3, log=True, when=logistic),
    )


BATCHES = (16.0, 32.0, 64.0, 128.0, 256.0)

REAL = (
    tuning(
        "svm-digits",
        50,
        (real("C", 1e-3, 1e3, log=True), real("gamma", 1e-6, 10.0, log=True)),
        "digits",
        "error",
        _svm,
    ),
    tuning(
        "svm-kernels-breast-cancer",
        60,
        (
            real("C", 1e-3, 1e3, log=True),
            choice("kernel", ["rbf", "poly", "sigmoid", "linear"]),
            real("gamma", 1e-6, 10.0, log=True, when=when("kernel", "rbf", "poly", "sigmoid")),
            integer("degree", 2, 5, when=when("kernel", "poly")),
            real("coef0", -1.0, 1.0, when=when("kernel", "poly", "sigmoid")),
        ),
        "breast_cancer",
        "error",
        _svm,
        "conditional",
    ),
    tuning(
        "boosting-diabetes",
        70,
        (
            real("learning_rate", 1e-3, 1.0, log=True),
            integer("n_estimators", 5, 150, log=True),
            integer("max_depth", 1, 8),
            real("subsample", 0.2, 1.0),
            integer("min_samples_leaf", 1, 50, log=True),
            real("max_features", 0.1, 1.0),
            choice("loss", ["squared_error", "absolute_error", "huber"]),
        ),
        "diabetes",
        "1 - R2",
        _boosting,
        "mixed",
    ),
    tuning(
        "forest-digits",
        60,
        (
            integer("n_estimators", 5, 80, log=True),
            integer("max_depth", 1, 20),
            real("max_features", 0.02, 1.0, log=True),
            integer("min_samples_leaf", 1, 20, log=True),
            choice("criterion", ["gini", "entropy"]),
            choice("bootstrap", [True, False]),
        ),
        "digits",
        "log loss",
        _forest,
        "mixed",
    ),
    tuning(
        "mlp-digits",
        70,
        (
            integer("units", 4, 128, log=True),
            choice("activation", ["relu", "tanh", "logistic"]),
            real("alpha", 1e-7, 10.0, log=True),
            real("learning_rate", 1e-4, 0.3, log=True),
            ordinal("batch_size", BATCHES, log=True),
            real("one_minus_beta1", 0.01, 1.0, log=True),
        ),
        "digits",
        "log loss",
        mlp,
        "mixed",
    ),
    tuning(
        "mlp-layers-wine",
        70,
        (
            integer("layers", 1, 2),
            integer("units", 2, 64, log=True),
            integer("units2", 2, 64, log=True, when=when("layers", 2)),
            choice("activation", ["relu", "tanh"]),
            real("alpha", 1e-7, 10.0, log=True),
            real("learning_rate", 1e-4, 0.3, log=True),
            ordinal("batch_size", BATCHES[:3], log=True),
        ),
        "wine",
        "log loss",
        mlp,
        "mixed",
        "conditional",
    ),
    tuning(
        "logistic-breast-cancer",
        50,
        (
            real("C", 1e-4, 1e3, log=True),
            real("l1_ratio", 0.0, 1.0),
            integer("max_iter", 5, 200, log=True),
            real("tol", 1e-6, 1e-1, log=True),
            choice("fit_intercept", [True, False]),
        ),
        "breast_cancer",
        "log loss",
        _logistic,
        "mixed",
    ),
    tuning("classifier-digits", 70, _choice_of_classifier(), "digits", "log loss", _chosen, "conditional"),
    tuning(
        "classifier-breast-cancer", 70, _choice_of_classifier(), "breast_cancer", "log loss", _chosen, "conditional"
    ),
    tuning("classifier-wine", 70, _choice_of_classifier(), "wine", "log loss", _chosen, "conditional"),
)


def parameters_of_network(features: int, classes: int, *hidden: int) -> int:
    """Number of weights and biases of a fully connected network."""
    sizes = (features, *hidden, classes)
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def digits_error_and_size(point: Point, split: int, name: str) -> tuple[float, float]:
    """Error rate of a network on digits, and log10 of its number of parameters."""
    error = cached(name, point, split, lambda: _measured("digits", "error", mlp, point, split))
    hidden = [int(point[key]) for key in ("units", "units2") if key in point]
    return error, math.log10(parameters_of_network(64, 10, *hidden))


def forest_loss_and_work(point: Point, split: int, name: str) -> tuple[float, float]:
    """Log loss of a forest on digits, and log10 of the comparisons a prediction takes at most (trees times depth),
    which stands for its latency.
    """
    full = point | {"criterion": "gini"}
    loss = cached(name, point, split, lambda: _measured("digits", "log loss", _forest, full, split))
    return loss, math.log10(int(point["n_estimators"]) * int(point["max_depth"]))
