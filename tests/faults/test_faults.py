"""Nothing acknowledged is lost, whatever happens: the short form, and the long one of `make soak KILLS=n`."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from .deployment import postgres_deployment, small_disk, sqlite_deployment
from .rounds import Round, play

SEED = int(os.environ.get("ASKTELL_FAULTS_SEED", time.time_ns() % 1_000_000))
KILLS = int(os.environ.get("ASKTELL_FAULTS_KILLS", "500"))
KILLS_PER_ROUND = 25


def test_a_healthy_server_has_no_violation(tmp_path: Path) -> None:
    """Without faults every client gets what it is promised, and the checker raises no false alarm."""
    with sqlite_deployment(tmp_path) as deployment:
        report = play(deployment, Round(SEED, calls=300))

    assert not report.violations, f"seed {SEED}: {report}"
    assert report.calls["ok"] > 50


@pytest.mark.timeout(400)
def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    """A handful of faults at random moments, drawn by the seed that a failure prints."""
    with sqlite_deployment(tmp_path) as deployment:
        report = play(deployment, Round(SEED, calls=200, kills=2, pace_s=0.7))

    assert not report.violations, f"seed {SEED}: {report}"
    assert report.calls["ok"] > 50


@pytest.mark.timeout(400)
def test_a_few_kills_among_three_servers_lose_nothing(tmp_path: Path) -> None:
    """The same on PostgreSQL: any server takes any call, and servers, compute processes and the database are killed."""
    with postgres_deployment(tmp_path) as deployment:
        report = play(deployment, Round(SEED, calls=200, kills=3, pace_s=0.7))

    assert not report.violations, f"seed {SEED}: {report}"
    assert report.calls["ok"] > 50


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_hundreds_of_kills_among_three_servers_lose_nothing(tmp_path: Path) -> None:
    """Rounds of kills of servers, compute processes and the database, pauses, broken connections and wrong clocks. In every other one each
    study has a server to itself but for strays, so that servers take for granted what the strays change.
    """
    harms: Counter[str] = Counter()
    seed = SEED
    while harms["kill"] + harms["kill compute"] < KILLS:
        seed += 1
        folder = tmp_path / str(seed)
        folder.mkdir()
        with postgres_deployment(folder) as deployment:
            made = Round(
                seed,
                kills=KILLS_PER_ROUND,
                clients=6,
                budget=150,
                model=seed % 3 == 0,
                limit_s=600,
                strays=1.0 if seed % 2 else 0.03,
            )
            report = play(deployment, made)
        harms += report.harms
        print(f"seed {seed}: {report}", flush=True)

        assert not report.violations, f"seed {seed}: {report}"
    print(f"{harms['kill'] + harms['kill compute']} kills, 0 violations: {dict(harms)}", flush=True)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_hundreds_of_kills_lose_nothing(tmp_path: Path) -> None:
    """Rounds of kills, full disks, pauses, broken connections, torn logs and wrong clocks, each on a database of its own."""
    harms: Counter[str] = Counter()
    seed = SEED
    while harms["kill"] + harms["kill compute"] < KILLS:
        seed += 1
        folder = tmp_path / str(seed)
        folder.mkdir()
        with small_disk() as place, sqlite_deployment(place) as deployment:
            made = Round(seed, kills=KILLS_PER_ROUND, clients=6, budget=150, model=seed % 3 == 0, limit_s=600)
            report = play(deployment, made)
        harms += report.harms
        print(f"seed {seed}: {report}", flush=True)

        assert not report.violations, f"seed {seed}: {report}"
    print(f"{harms['kill'] + harms['kill compute']} kills, 0 violations: {dict(harms)}", flush=True)
