"""The toy problem: one neuron could solve it, but only a larger critic lets it learn to.

    runs, left_out = read_cells({("ddpg", "a |1|, c |16,16,1|"): DDPGControl(env="toy", ...), ...})
    print(toy_report("runs/toy", ["ddpg"], runs, left_out))

Symmetric pairs of the sizes 1, 4-4-1, 8-8-1 and 16-16-1, and an actor of size 1 with a critic of 16-16-1. An agent has
learned if its policy is viable in the end and was not at its start: a neuron may be initialised near the solution. A
cell whose files are damaged is named and left out. As a command, which trains the cells as well: experiments/toy.py.
Section III and figures 1 and 2 of Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021,
https://arxiv.org/abs/2102.11893).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.envs import ExplorationType, set_exploration_type

from decouple.checks import at_least, check_fields
from decouple.runs.checkpoint import CheckpointError
from decouple.runs.curves import save_figure
from decouple.runs.files import csv_lines, markdown_lines, replace_file
from decouple.runs.metrics import read_metrics
from decouple.studies.actor_size.algorithms import initial_agents
from decouple.studies.actor_size.build import make_env
from decouple.studies.actor_size.cell import final_returns, run_result
from decouple.studies.actor_size.load import load_agents
from decouple.studies.actor_size.settings import ControlSettings

__all__ = ["PAIRS", "TITLES", "VIABLE", "CellRun", "ToyStudy", "read_cells", "toy_report"]

PAIRS = {
    "a |1|, c |1|": ([], []),
    "a |4,4,1|, c |4,4,1|": ([4, 4], [4, 4]),
    "a |8,8,1|, c |8,8,1|": ([8, 8], [8, 8]),
    "a |16,16,1|, c |16,16,1|": ([16, 16], [16, 16]),
    "a |1|, c |16,16,1|": ([], [16, 16]),
}
TITLES = {"trpo": "TRPO", "ppo": "PPO", "ddpg": "DDPG", "sac": "SAC", "td3": "TD3"}
VIABLE = -10.0  # least return of a viable policy: 0.05 off the goal, on average over 200 steps

Key = tuple[str, str]  # algorithm and pair


@dataclass
class ToyStudy:
    """Settings of the toy study: the part of it to run."""

    algorithms: list[str] = field(default_factory=lambda: list(TITLES))  # any of trpo, ppo, ddpg, sac, td3
    seeds: int = 6  # agents per cell
    total_frames: int | None = None  # frames of each agent; None: those of configs/control/departures/toy_*.yaml
    run_dir: str = "runs/toy"  # folder of cells, figures and table
    train: bool = True  # false: only figures and table, from the cells that are there
    restart: bool = False  # start unfinished cells over; their old folders are kept beside them

    def __post_init__(self) -> None:
        check_fields(self, seeds=at_least(1), total_frames=at_least(1))
        unknown = sorted(set(self.algorithms) - set(TITLES))
        if unknown or not self.algorithms:
            raise ValueError(f"algorithms must be one or more of {list(TITLES)}; got {self.algorithms}")


@dataclass
class CellRun:
    """The run of a cell, read from its folder."""

    settings: ControlSettings
    metrics: Mapping[str, list[float]]
    result: Mapping[str, Any] | None  # content of result.json; None: the run has not ended
    agents: list[Any]  # the agents at its last checkpoint

    def returns(self) -> np.ndarray:
        """Final returns, one per seed; nan for an agent that failed."""
        names = (
            [f"final/return/seed{s}" for s in self.settings.all_seeds] if self.settings.seeds > 1 else ["final/return"]
        )
        found = self.result or {}
        if lacking := [name for name in names if name not in found]:
            raise ValueError(f"{Path(self.settings.run_dir) / 'result.json'} must hold {', '.join(lacking)}")
        return np.array([math.nan if found[name] is None else found[name] for name in names])

    def starts(self) -> np.ndarray:
        """Returns of the agents before training, one per seed, in the same episodes."""
        return np.array(final_returns(self.settings, initial_agents(self.settings)))


def read_cells(cells: Mapping[Key, ControlSettings]) -> tuple[dict[Key, CellRun], dict[Key, str]]:
    """The runs that are there, and the reason for each that cannot be used (damaged, or of other settings or rules).

    Raises:
        ValueError: there are cells, and none can be used; the message has every reason.
    """
    runs: dict[Key, CellRun] = {}
    left_out: dict[Key, str] = {}
    for key, settings in cells.items():
        folder = Path(settings.run_dir)
        if not folder.exists():
            continue
        try:
            run = CellRun(settings, read_metrics(folder), run_result(settings), load_agents(folder))
            if run.result is not None:
                run.returns()
            runs[key] = run
        except (ValueError, OSError, CheckpointError) as error:
            left_out[key] = str(error)
    if left_out and not runs:
        raise ValueError("\n".join(["run_dir must hold a cell that can be used; of those there:", *left_out.values()]))
    return runs, left_out


def draw_training(runs: Mapping[Key, CellRun], path: Path) -> None:
    """Figure 1: returns and value losses over training, the median over seeds and the range of their middle half."""
    import matplotlib.pyplot as plt

    algorithms = list(dict.fromkeys(algorithm for algorithm, _ in runs))
    figure, axes = plt.subplots(2, len(algorithms), figsize=(3.6 * len(algorithms), 6.4), squeeze=False)
    for (algorithm, pair), run in runs.items():
        settings, metrics, column = run.settings, run.metrics, algorithms.index(algorithm)
        style = {"label": pair, "color": f"C{list(PAIRS).index(pair)}", "lw": 1.6}
        for row, name in enumerate(("train/episode_return", "loss/critic")):
            names = [f"{name}/seed{seed}" for seed in settings.all_seeds] if settings.seeds > 1 else [name]
            values = np.array([metrics[n] for n in names if n in metrics], float)  # (S, rows)
            frames = np.array(metrics["frames"])
            if not values.size:
                continue
            values = np.where(np.isfinite(values), values, np.nan)  # an agent that failed has no more
            present = ~np.isnan(values).all(0)
            low, middle, high = np.nanquantile(values[:, present], [0.25, 0.5, 0.75], axis=0)
            axes[row, column].plot(frames[present], middle, **style)
            axes[row, column].fill_between(frames[present], low, high, alpha=0.15, color=style["color"], lw=0)
    for column, algorithm in enumerate(algorithms):
        axes[0, column].set(title=TITLES[algorithm], ylim=(-150, 5))
        axes[1, column].set(yscale="log", xlabel="steps of one agent")
    axes[0, 0].set_ylabel("return of training episodes")
    axes[1, 0].set_ylabel("value loss")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(PAIRS), frameon=False)
    figure.suptitle("Median over seeds, and their middle half")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    save_figure(figure, path, dpi=110)
    plt.close(figure)


@torch.no_grad()
def episode_of(run: CellRun, agent: int) -> dict[str, np.ndarray]:
    """One episode of one agent without exploration: its goals, states, observations and actions, (T,)."""
    policy = run.agents[agent].get_policy_operator()
    env = make_env(run.settings, 1, [12345])
    step, seen = env.reset(), {"goal": [], "state": [], "observation": [], "action": []}
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        while not step["done"].any():
            step = policy(step)
            for key, values in seen.items():
                values.append(step[key].item())
            step = env.step(step)["next"]
    return {key: np.array(values) for key, values in seen.items()}


@torch.no_grad()
def policy_line(run: CellRun, agent: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations over their whole range, and the agent's action at each."""
    observation = torch.linspace(-2, 2, 201)[:, None]
    policy = run.agents[agent].get_policy_operator()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = policy(TensorDict({"observation": observation}, [201]))["action"]
    return observation[:, 0].numpy(), action[:, 0].numpy()


def draw_policies(runs: Mapping[Key, CellRun], algorithm: str, path: Path) -> None:
    """Figure 2: how the agent of median return tracks a goal, and its action against what it observes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(PAIRS), figsize=(3.2 * len(PAIRS), 6), squeeze=False)
    for column, pair in enumerate(PAIRS):
        axes[0, column].set_title(pair)
        run = runs.get((algorithm, pair))
        if run is None or run.result is None or np.isnan(returns := run.returns()).all():
            continue
        agent = int(np.argsort(returns)[((~np.isnan(returns)).sum() - 1) // 2])  # nan comes last
        episode = episode_of(run, agent)
        axes[0, column].plot(episode["goal"], color="black", lw=1, label="goal")
        axes[0, column].plot(episode["state"], color="C1", lw=1, label="state")
        axes[0, column].set(xlabel="step", ylim=(-1.1, 1.1))
        line = policy_line(run, agent)
        axes[1, column].plot([-2, 2], [-2, 2], ":", color="green", label="ideal, a = o")
        axes[1, column].plot(*line, color="C0", label="policy")
        axes[1, column].scatter(episode["observation"], episode["action"], s=6, color="C1", label="taken")
        axes[1, column].set(xlabel="observation o", xlim=(-2, 2), ylim=(-2.1, 2.1))
        axes[1, column].text(0.03, 0.93, f"return {returns[agent]:.1f}", transform=axes[1, column].transAxes)
    axes[0, 0].set_ylabel("goal and state")
    axes[1, 0].set_ylabel("action a")
    for row in (0, 1):
        handles, labels = axes[row, 0].get_legend_handles_labels()
        axes[row, -1].legend(handles, labels, loc="lower right", fontsize="small")
    figure.suptitle(f"{TITLES[algorithm]}, the agent of median return")
    figure.tight_layout()
    save_figure(figure, path, dpi=110)
    plt.close(figure)


def learned(starts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Which agents have learned: viable in the end, and not at the start. bool (S,); an agent that failed has not."""
    return (returns >= VIABLE) & ~(starts >= VIABLE)


def cell_text(starts: np.ndarray, returns: np.ndarray) -> str:
    """Mean and standard deviation of the final returns; agents that learned, of those whose start was not viable; and
    how many starts were."""
    there = returns[~np.isnan(returns)]
    spread = there.std(ddof=1) if len(there) > 1 else math.nan
    mean = f"{there.mean():.1f} ± {spread:.1f}" if len(there) else "no return"
    at_start, failed = int((starts >= VIABLE).sum()), len(returns) - len(there)
    counts = f"{learned(starts, returns).sum()} of {len(returns) - at_start}; {at_start} at the start"
    return f"{mean} ({counts}{f'; {failed} failed' if failed else ''})"


def table(algorithms: list[str], runs: Mapping[Key, CellRun], left_out: Mapping[Key, str]) -> tuple[str, bytes]:
    """`cell_text` of each algorithm and pair as a table in Markdown, with what was left out below it; and a CSV file
    with a row for each agent."""
    rows, agents = [["", *PAIRS]], [["algorithm", "pair", "seed", "start", "return", "learned"]]
    for algorithm in algorithms:
        entries = []
        for key in ((algorithm, pair) for pair in PAIRS):
            run = runs.get(key)
            if run is None or run.result is None:
                entries.append("left out" if key in left_out else "not run" if run is None else "not done")
                continue
            starts, returns = run.starts(), run.returns()
            entries.append(cell_text(starts, returns))
            each = zip(run.settings.all_seeds, starts, returns, learned(starts, returns), strict=True)
            agents += [[*key, str(seed), repr(float(a)), repr(float(b)), str(c).lower()] for seed, a, b, c in each]
        rows.append([TITLES[algorithm], *entries])
    notes = [f"- {TITLES[algorithm]}, {pair}: {text}" for (algorithm, pair), text in left_out.items()]
    for (algorithm, pair), run in runs.items():
        reasons = (run.result or {}).get("failed", {})
        notes += [f"- {TITLES[algorithm]}, {pair}, failed: {seed}, {reason}" for seed, reason in reasons.items()]
    return "\n".join([markdown_lines(rows), *(["", "Left out, or failed:", "", *notes] if notes else [])]), csv_lines(
        agents
    )


def toy_report(
    folder: str | os.PathLike[str], algorithms: list[str], runs: Mapping[Key, CellRun], left_out: Mapping[Key, str]
) -> str:
    """Write figures 1 and 2, the table and each agent's returns, from the runs of `read_cells`; returns the table.

    The files are `figure1.png`, `figure2_<algorithm>.png`, `table.md` and `agents.csv`.
    """
    folder = Path(folder)
    draw_training(runs, folder / "figure1.png")
    for algorithm in algorithms:
        draw_policies(runs, algorithm, folder / f"figure2_{algorithm}.png")
    text, agents = table(algorithms, runs, left_out)
    replace_file(folder / "table.md", text.encode() + b"\n")
    replace_file(folder / "agents.csv", agents)
    return text
