"""What the two studies cost at full size, from measured speeds: hours of one machine, and of as many as you have.

    python benchmarks/study_cost.py                                     # from the records in docs/results
    python benchmarks/study_cost.py --record gpu.csv --precision bf16   # of benchmarks/procgen_ppo.py --record gpu.csv
    python benchmarks/study_cost.py --hours hours.csv                   # of benchmarks/table_one.py --record hours.csv

The sharing study has 16 games, five seeds and 25M frames for each of four separations (`+sweep=study`). The off-policy
MuJoCo cells of Table I (`+sweep=mujoco`, and DDPG on Reacher and HalfCheetah) are priced by their baselines, times the
share that a search needs on top.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
GAMES, SEEDS, FRAMES = 16, 5, 25_000_000
VARIANTS = ("shared", "late", "early", "full")
MUJOCO, OFF_POLICY = ("reacher", "halfcheetah", "ant"), ("td3", "sac", "ddpg")
NO_PAIR = ("ant", "ddpg")  # Table I has none
SEARCH = 1.3  # hours of a search in those of its baseline, as on Pendulum: docs/smallest_actor_results.md


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def study_hours(record: Path, precision: str) -> dict[str, tuple[float, float]]:
    """Separation -> frames per second and hours of all its runs, by the newest session that has all four.

    Raises:
        ValueError: no session has all four.
    """
    sessions: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows_of(record):
        if row["precision"] == precision and row["contender"] in VARIANTS and row["width"] == "1":
            key = row["date"], row["commit"], row["load"]
            sessions.setdefault(key, {})[row["contender"]] = float(row["env_steps_per_s"])
    whole = [of for _, of in sorted(sessions.items()) if set(of) == set(VARIANTS)]
    if not whole:
        raise ValueError(f"{record} must have a session with {', '.join(VARIANTS)} at precision={precision}")
    return {name: (whole[-1][name], GAMES * SEEDS * FRAMES / whole[-1][name] / 3600) for name in VARIANTS}


def mujoco_hours(hours: Path) -> dict[tuple[str, str], float]:
    """Task and algorithm -> hours of its search, six agents as one batch, on one core."""
    return {
        (row["task"], row["algorithm"]): SEARCH * float(row["hours"])
        for row in rows_of(hours)
        if row["task"] in MUJOCO and row["algorithm"] in OFF_POLICY and (row["task"], row["algorithm"]) != NO_PAIR
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--record", type=Path, default=RESULTS / "performance" / "procgen.csv", help="speeds on Procgen"
    )
    parser.add_argument("--precision", default="bf16", help="of the speeds")
    parser.add_argument(
        "--hours", type=Path, default=RESULTS / "honey" / "hours.csv", help="hours of Table I's baselines"
    )
    parser.add_argument("--machines", type=int, default=1, help="machines, or GPUs, that run at once")
    options = parser.parse_args()
    print("| separation | runs | frames/s | hours |\n|---|---|---|---|")
    total = 0.0
    for name, (rate, hours) in study_hours(options.record, options.precision).items():
        total += hours
        print(f"| {name} | {GAMES * SEEDS} | {rate:,.0f} | {hours:,.0f} |")
    print(f"| all | {len(VARIANTS) * GAMES * SEEDS} | | {total:,.0f} |\n")
    searches = mujoco_hours(options.hours)
    print("| search | hours |\n|---|---|")
    for (task, algorithm), hours in searches.items():
        print(f"| {task}, {algorithm.upper()} | {hours:,.0f} |")
    print(f"| all | {sum(searches.values()):,.0f} |\n")
    print(
        f"on {options.machines} at once: {total / options.machines / 24:,.1f} days and "
        f"{max(sum(searches.values()) / options.machines, max(searches.values())) / 24:,.1f} days"
    )


if __name__ == "__main__":
    main()
