"""The command line of the optimizer benchmark. What it does is said in the package's docstring."""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import __doc__ as description
from . import report, results
from .catalogue import NAMED_SUBSETS, PEERS, chosen_problems, default_peers
from .child import ONE_THREAD
from .problems import PROBLEMS
from .problems.cache import folder
from .results import Key, Run
from .running import Task, run_in_pool


def numbers(text: str) -> list[int]:
    """`0-4,7` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def names(text: str) -> list[str]:
    """A comma-separated list."""
    return [part for part in text.split(",") if part]


def budget(problem: str, factor: float) -> int:
    """Trials of a problem at a scale; at least five."""
    return max(5, round(PROBLEMS[problem].budget * factor))


def tasks(options: argparse.Namespace) -> list[Task]:
    """The runs that the options ask for, those with the lowest seeds first, so that an interrupted benchmark has all
    peers on some seeds.
    """
    wanted = chosen_problems(options.problems, options.subset, options.named_subset)
    peers = options.peers or default_peers()
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise ValueError(f"no such peers: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    explicit = bool(options.problems) or options.named_subset is not None
    return [
        Task(peer, problem.name, seed, q, budget(problem.name, options.budget_scale), options.label)
        for seed in options.seeds
        for q in options.q
        for peer in peers
        for problem in wanted
        if PEERS[peer].takes(problem) and (explicit or runs_unasked(peer, problem.name, q))
    ]


def runs_unasked(peer: str, problem: str, q: int) -> bool:
    """Whether the catalogue has the peer run on the problem without anybody naming problems."""
    return problem in NAMED_SUBSETS[PEERS[peer].subset] and (q == 1 or problem in NAMED_SUBSETS["parallel"])


def missing(wanted: Iterable[Task], done: dict[Key, Run], *, redo: bool) -> list[Task]:
    """Those that have no result yet."""
    return [
        task
        for task in wanted
        if redo
        or (run := done.get(Key(task.shown, task.problem, task.seed, task.q, task.budget))) is None
        or run.error is not None
    ]


def make_runs(left: Sequence[Task], path: Path, jobs: int) -> None:
    """Makes the runs, `jobs` at once in processes of their own, and appends each as it ends."""
    os.environ.update(ONE_THREAD)  # for the harness's processes, which train the models of real problems
    started = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        futures = [pool.submit(run_in_pool, task) for task in left]
        try:
            for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
                run = future.result()
                results.append(path, run)
                elapsed = time.monotonic() - started
                print(
                    f"[{done}/{len(left)}, {elapsed:.0f} s, about {elapsed / done * (len(left) - done):.0f} s left] {report.one_line(run)}",
                    flush=True,
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.optimizers",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--peers", type=names, default=[], help="who takes part; default: all but those marked asked-for")
    made.add_argument("--problems", type=names, default=[], help="problems by name")
    made.add_argument("--subset", type=names, default=[], help="problems by tag, such as continuous,noisy")
    made.add_argument(
        "--named-subset", choices=sorted(NAMED_SUBSETS), help="problems of a subset from the catalogue, for every peer"
    )
    made.add_argument("--seeds", type=numbers, default=numbers("0-4"), help="such as 0-9 (default 0-4)")
    made.add_argument("--q", type=numbers, default=[1], help="trials in parallel, such as 1,4 (default 1)")
    made.add_argument("--jobs", type=int, default=1, help="runs at once; more than one disturbs latencies")
    made.add_argument("--budget-scale", type=float, default=1.0, help="times the problems' budgets")
    made.add_argument("--label", default="", help="kept with the peer's name, to compare variants")
    made.add_argument("--redo", action="store_true", help="make runs again that are there")
    made.add_argument("--results", type=Path, default=folder() / "optimizers.jsonl", help="the results file")
    made.add_argument(
        "--with", dest="others", type=Path, action="append", default=[], help="more results for the report"
    )
    made.add_argument("--report", type=Path, help="where to write the report (Markdown; figures go beside it)")
    made.add_argument("--keep", type=Path, help="where to write the runs of the report too, compressed (.xz)")
    made.add_argument("--report-only", action="store_true", help="make no runs")
    made.add_argument(
        "--latency",
        metavar="ALGORITHM",
        help="instead of runs, measure tell to next suggestion by number of trials (gp)",
    )
    made.add_argument("--rounds", type=int, default=7, help="asks measured at each size with --latency (default 7)")
    made.add_argument("--print", dest="show", action="store_true", help="print the tables")
    made.add_argument("--list", action="store_true", help="list peers, problems and subsets")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the missing runs, then the report."""
    options = parser().parse_args(arguments)
    if options.list:
        report.print_catalogue()
        return 0
    try:
        wanted = tasks(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.latency:
        from .latency import measure

        measure(options.latency, options.rounds, folder() / "latency.json")
    elif not options.report_only:
        done = results.read([options.results, *options.others])
        left = missing(wanted, done, redo=options.redo)
        print(f"{len(wanted)} runs wanted, {len(wanted) - len(left)} there, {len(left)} to make", flush=True)
        if left:
            make_runs(left, options.results, options.jobs)
    if options.show or options.report or options.keep:
        conclude(options, wanted, arguments)
    return 0


def conclude(options: argparse.Namespace, wanted: Sequence[Task], arguments: Sequence[str] | None) -> None:
    """Prints the tables, writes the report, or keeps the runs: all runs on the wanted problems, seeds, qs and budgets; of other peers
    too unless peers are named.
    """
    problems = {task.problem for task in wanted}
    runs = [
        run
        for run in results.read([options.results, *options.others]).values()
        if run.problem in problems
        and run.seed in options.seeds
        and run.q in options.q
        and run.budget == budget(run.problem, options.budget_scale)
        and (not options.peers or run.peer.partition("@")[0] in options.peers)
    ]
    if not runs:
        print("no results yet")
        return
    if options.show:
        print(report.tables(runs))
    if options.report:
        from . import plots  # matplotlib takes seconds to import

        command = "python -m benchmarks.optimizers " + " ".join(sys.argv[1:] if arguments is None else arguments)
        figures = plots.draw(runs, options.report)
        report.write(options.report, runs, command, figures, folder() / "latency.json")
        print(f"wrote {options.report}")
    if options.keep:
        results.keep(options.keep, runs)
        print(f"wrote {options.keep}")


if __name__ == "__main__":
    sys.exit(main())
