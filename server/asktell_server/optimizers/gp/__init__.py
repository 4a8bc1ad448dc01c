"""The project's own Gaussian-process engine in float64: fits compute with torch, predictions and the search with numpy.

    cube.py          the search space as arrays: which coordinates move freely, which take levels, which are active
    kernel.py        covariance functions over those arrays, with derivatives
    fit.py           hyperparameters: their priors, and their fit
    device.py        where the largest fits run: on a GPU, or on the CPU
    posterior.py     what follows for points that were not tried
    acquisition.py   how much a point promises: values and gradients
    hypervolume.py   the same of several objectives: by how much a point enlarges what the Pareto front dominates
    search.py        the point that promises most
    foreign.py       values and points of one study in the space of another
    transfer.py      what earlier studies teach: a trend for the first objective's model
    explain.py       what the models have learned; explainable.py lends it their posteriors
    optimizer.py     the optimizer: which results teach what, when to refit, what to propose

Notation is that of docs/notation.md. Importing a module below this package imports torch, except for `optimizer`, `foreign` and `device`.
"""
