"""The optimizer benchmark: AskTell's algorithms, through a real server, against other optimizers on the same problems.

    make bench-optimizers                                    environments, everything, the report; many hours
    make bench-optimizers-quick                              a few problems and peers, under three minutes
    python -m benchmarks.optimizers --peers asktell-gp,optuna-gp --subset continuous --seeds 0-4 --q 1,4 --jobs 2
    python -m benchmarks.optimizers --peers asktell-gp --label no-warping --seeds 0-4     a variant, kept as asktell-gp@no-warping
    python -m benchmarks.optimizers --report-only --print    what is there so far, as tables
    python -m benchmarks.optimizers --latency gp             time from a tell to the next suggestion as a study grows
    python -m benchmarks.optimizers --list                   peers, problems and subsets

Results are appended to `.bench/optimizers.jsonl`; a run that is there is not made again (`--redo` makes it again), so
interrupt at any time. Other files: `--results FILE`, and `--with FILE` to take its lines into the report too; what is in
either is not made again. Extra flags for our server: ASKTELL_BENCH_SERVER_FLAGS. What peers print:
ASKTELL_BENCH_VERBOSE=1. Environments are made by `scripts/peers [NAME...]`.

`--keep` writes the runs of a report to a file for the repository: `benchmarks/runs.jsonl.xz` has those of
docs/benchmarks.md and more seeds, so that it can be made again, and added to where only a peer or a problem is new.
An engine that has changed needs all of its own runs again: `--peers asktell-gp --redo`.

    space.py         a search space in neutral form
    problems/        what is optimised
    protocol.py      JSON lines between the harness and a peer
    peers/           adapters, one for each peer
    catalogue.py     who takes part, where
    child.py         a peer's process
    running.py       one run
    results.py       the results file
    scoring.py       regrets, ranks, intervals
    report.py        the report; plots.py its figures
    latency.py       the time from a tell to the next suggestion, by number of trials
    __main__.py      the command line
"""
