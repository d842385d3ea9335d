"""The toy problem: one neuron could solve it, but only a larger critic lets it learn to.

    python experiments/toy.py                                   # the whole study: 5 algorithms x 5 pairs x 6 seeds
    python experiments/toy.py algorithms=[ddpg] seeds=2         # a part of it
    python experiments/toy.py train=false                       # figures and table alone, from what is there

Symmetric pairs |1|, |4,4,1|, |8,8,1| and |16,16,1|, and a |1| actor with a |16,16,1| critic. Each cell is
`experiments/control.py env=toy algorithm=... actor=[...] critic=[...]`, all its seeds one batch; cells that are done
are left alone, one that was interrupted goes on. Section III and figures 1 and 2 of Mysore et al., *Honey, I Shrunk The
Actor* (CoG 2021, https://arxiv.org/abs/2102.11893).
"""

# First: it takes this folder off the path.
from _script import register_control, run_command, run_goes_on, says_what_goes_on, settings_of  # noqa: I001

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import matplotlib.pyplot as plt
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from tensordict import TensorDict
from torchrl.envs import ExplorationType, set_exploration_type

from decouple.checks import check_setting
from decouple.control import ControlSettings, done_result, load_agents, make_env, run_result, sizes_name, train_agents
from decouple.curves import save_figure
from decouple.metrics import markdown_lines, read_metrics

PAIRS = {
    "a |1|, c |1|": ([], []),
    "a |4,4,1|, c |4,4,1|": ([4, 4], [4, 4]),
    "a |8,8,1|, c |8,8,1|": ([8, 8], [8, 8]),
    "a |16,16,1|, c |16,16,1|": ([16, 16], [16, 16]),
    "a |1|, c |16,16,1|": ([], [16, 16]),
}
TITLES = {"trpo": "TRPO", "ppo": "PPO", "ddpg": "DDPG", "sac": "SAC", "td3": "TD3"}
VIABLE = -10.0  # a return from here on is a viable policy: 0.05 off the goal, on the mean over 200 steps
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "control"


@dataclass
class ToyStudy:
    """What of the study to run."""

    algorithms: list[str] = field(default_factory=lambda: list(TITLES))  # trpo, ppo, ddpg, sac, td3
    seeds: int = 6  # agents per cell
    total_frames: int | None = None  # of each agent; None: as configs/control/departures/toy_*.yaml say
    run_dir: str = "runs/toy"  # cells, figures and table
    train: bool = True  # false: figures and table from what is there

    def __post_init__(self) -> None:
        unknown = sorted(set(self.algorithms) - set(TITLES))
        if unknown or not self.algorithms:
            raise ValueError(f"algorithms must be of {list(TITLES)}; got {self.algorithms}")


def cell(study: ToyStudy, algorithm: str, pair: str) -> ControlSettings:
    """The settings of one cell, as `experiments/control.py` would compose them."""
    actor, critic = PAIRS[pair]
    folder = f"{algorithm}/{sizes_name(actor)}-{sizes_name(critic)}/seeds{study.seeds}"
    overrides = ["env=toy", f"algorithm={algorithm}", f"actor={actor}", f"critic={critic}", f"seeds={study.seeds}"]
    overrides.append(f"run_dir={study.run_dir}/{folder}")
    if study.total_frames is not None:
        overrides.append(f"total_frames={study.total_frames}")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = OmegaConf.to_object(compose("control", [text.replace(" ", "") for text in overrides]))
    return settings  # pyright: ignore[reportReturnType]


def run_cells(cells: dict[tuple[str, str], ControlSettings]) -> None:
    """Train what is not done yet, and say how long each cell took."""
    for (algorithm, pair), settings in cells.items():
        if done_result(settings) is not None:
            continue
        start = time.perf_counter()
        with says_what_goes_on(lambda settings=settings: run_goes_on(settings.run_dir)):
            report = train_agents(settings)
        print(f"{TITLES[algorithm]}, {pair}: {report['final/return']:.2f} in {time.perf_counter() - start:.0f} s")


def finished(cells: dict[tuple[str, str], ControlSettings]) -> dict[tuple[str, str], dict[str, float]]:
    """The results that are there; CheckpointError where one is of other settings, or under other rules."""
    results = {key: run_result(settings) for key, settings in cells.items()}
    return {key: result for key, result in results.items() if result is not None}


def returns_of(result: dict[str, float], settings: ControlSettings) -> np.ndarray:
    """Final returns, one per seed."""
    if settings.seeds == 1:
        return np.array([result["final/return"]])
    return np.array([result[f"final/return/seed{seed}"] for seed in settings.all_seeds])


def draw_training(cells: dict[tuple[str, str], ControlSettings], path: Path) -> None:
    """Figure 1: returns and value losses over training, the median over seeds and the range of their middle half."""
    algorithms = list(dict.fromkeys(algorithm for algorithm, _ in cells))
    figure, axes = plt.subplots(2, len(algorithms), figsize=(3.6 * len(algorithms), 6.4), squeeze=False)
    for (algorithm, pair), settings in cells.items():
        if not (Path(settings.run_dir) / "metrics.csv").exists():
            continue
        metrics, column = read_metrics(settings.run_dir), algorithms.index(algorithm)
        style = {"label": pair, "color": f"C{list(PAIRS).index(pair)}", "lw": 1.6}
        for row, name in enumerate(("train/episode_return", "loss/critic")):
            names = [f"{name}/seed{seed}" for seed in settings.all_seeds] if settings.seeds > 1 else [name]
            values = np.array([metrics[n] for n in names if n in metrics], float)  # (S, rows)
            frames = np.array(metrics["frames"])
            if not values.size:
                continue
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
def episode_of(settings: ControlSettings, agent: int) -> dict[str, np.ndarray]:
    """One episode of one agent without exploration: its goals, states, observations and actions, (T,)."""
    policy = load_agents(settings.run_dir)[agent].get_policy_operator()
    env = make_env(settings, 1, [12345])
    step, seen = env.reset(), {"goal": [], "state": [], "observation": [], "action": []}
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        while not step["done"].any():
            step = policy(step)
            for key, values in seen.items():
                values.append(step[key].item())
            step = env.step(step)["next"]
    return {key: np.array(values) for key, values in seen.items()}


@torch.no_grad()
def policy_line(settings: ControlSettings, agent: int) -> tuple[np.ndarray, np.ndarray]:
    """Action against observation over its whole range."""
    observation = torch.linspace(-2, 2, 201)[:, None]
    policy = load_agents(settings.run_dir)[agent].get_policy_operator()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = policy(TensorDict({"observation": observation}, [201]))["action"]
    return observation[:, 0].numpy(), action[:, 0].numpy()


def draw_policies(cells: dict[tuple[str, str], ControlSettings], algorithm: str, path: Path) -> None:
    """Figure 2: how the agent of median return tracks a goal, and its action against what it observes."""
    done = {key: result for key, result in finished(cells).items() if key[0] == algorithm}
    figure, axes = plt.subplots(2, len(PAIRS), figsize=(3.2 * len(PAIRS), 6), squeeze=False)
    for column, pair in enumerate(PAIRS):
        axes[0, column].set_title(pair)
        if (algorithm, pair) not in done:
            continue
        settings = cells[algorithm, pair]
        returns = returns_of(done[algorithm, pair], settings)
        agent = int(np.argsort(returns)[(len(returns) - 1) // 2])
        episode = episode_of(settings, agent)
        axes[0, column].plot(episode["goal"], color="black", lw=1, label="goal")
        axes[0, column].plot(episode["state"], color="C1", lw=1, label="state")
        axes[0, column].set(xlabel="step", ylim=(-1.1, 1.1))
        line = policy_line(settings, agent)
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


def table(cells: dict[tuple[str, str], ControlSettings]) -> str:
    """Final returns per algorithm and pair: mean and standard deviation over seeds, and how many are viable."""
    results = finished(cells)
    rows = [["", *PAIRS]]
    for algorithm in dict.fromkeys(algorithm for algorithm, _ in cells):
        entries = []
        for pair in PAIRS:
            if (algorithm, pair) not in results:
                entries.append("not run")
                continue
            returns = returns_of(results[algorithm, pair], cells[algorithm, pair])
            spread = returns.std(ddof=1) if len(returns) > 1 else math.nan
            viable = int((returns >= VIABLE).sum())
            entries.append(f"{returns.mean():.1f} ± {spread:.1f} ({viable}/{len(returns)})")
        rows.append([TITLES[algorithm], *entries])
    return markdown_lines(rows)


ConfigStore.instance().store(name="toy_schema", node=ToyStudy)
register_control()


@hydra.main(version_base="1.3", config_path="../configs", config_name="toy")
def main(config: Any) -> None:
    study: ToyStudy = settings_of(config)
    GlobalHydra.instance().clear()  # this script is composed; what follows composes each cell
    cells = {(a, pair): cell(study, a, pair) for a in study.algorithms for pair in PAIRS}
    if study.train:
        run_cells(cells)
    folder, there = Path(study.run_dir), finished(cells)  # refuses what is of other settings
    check_setting("train", study.train, lambda _: bool(there), f"true where {folder} has no cells that are done")
    draw_training(cells, folder / "figure1.png")
    for algorithm in study.algorithms:
        draw_policies(cells, algorithm, folder / f"figure2_{algorithm}.png")
    text = table(cells)
    (folder / "table.md").write_text(text + "\n")
    print(text)
    print(f"viable: a return of at least {VIABLE:.0f}; figures and table are in {folder}")


if __name__ == "__main__":
    run_command(main)
