"""Procgen training: environment steps per second, time per part, memory, and share of the machine's peak rate.

    python benchmarks/procgen_ppo.py                                     # the four separations and DAAC
    python benchmarks/procgen_ppo.py --contenders shared late --precision fp32 bf16 --rounds 5
    python benchmarks/procgen_ppo.py --contenders shared --performance auto fastest --seconds 60    # on a GPU
    python benchmarks/procgen_ppo.py --grow envs                         # or k, width, or frames
    python benchmarks/procgen_ppo.py --record docs/results/performance/procgen.csv

Every contender has its own process, and all processes are alive at once. They run one iteration each in turn, so that
a slower machine slows all, and each is compared with the reference in the same round. Figures are medians over rounds,
after a warm-up round. `reference` is a plain PyTorch loop in the field's usual form (`reference_ppo.py`). `parts` are
the games, acting and learning of `shared`, each alone: their sum is a lower bound for `shared`.

`environment` is measured separately, by stepping the same games with random actions; `acting` is the rest of the
rollout. The share of the ceiling is the rate of counted operations (forward and backward), divided by the best rate
measured here for a matrix product or a convolution in the same precision. With 128 steps instead of the study's 256 an
iteration has half the frames, in minibatches of the same size. With `--cpu-clock --threads 1` times are processor time,
which a busy machine changes little. Each turn is printed when it is over, to stderr. On a GPU: without the reference.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decouple import OnPolicySettings

MINIBATCH = 2048
GAME = "starpilot"
SHOWN = {  # column: heading
    "contender": "contender",
    "precision": "precision",
    "env_steps_per_s": "env-steps/s",
    "times_reference": "times the reference",
    "environment_s": "environment s",
    "acting_s": "acting s",
    "learning_s": "learning s",
    "acting_images_per_s": "acting images/s",
    "learning_images_per_s": "learning images/s",
    "share_of_ceiling": "share of the ceiling",
    "peak_mb": "peak memory MB",
}
KEPT = (
    "date",
    "commit",
    "machine",
    "torch",
    "threads",
    "clock",
    "load",
    "rounds",
    "performance",
    "envs",
    "steps",
    "width",
)


# --------------------------------------------------------------------------------------- a contender, in its process


def wait_for_turn() -> None:
    if not sys.stdin.readline():
        sys.exit()


def tell(**figures: Any) -> None:
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # Linux: KiB
    print(json.dumps(figures), flush=True)


def run_reference(options: argparse.Namespace) -> None:
    from reference_ppo import ReferencePPO

    loop = ReferencePPO(GAME, options.envs, options.steps, games_threads(options))
    tell(ready=True)
    while True:
        wait_for_turn()
        start = time.perf_counter()
        loop.collect()
        collected = time.perf_counter()
        loop.learn()
        tell(collect=collected - start, learn=time.perf_counter() - collected)


def run_parts(options: argparse.Namespace) -> None:
    from reference_ppo import Parts

    from decouple.runs.performance import MICRO_BATCH, keep_memory

    keep_memory()
    micro_batch = options.micro_batch or MICRO_BATCH[options.precision]
    parts = Parts(GAME, options.envs, options.steps, games_threads(options), options.precision, micro_batch)
    tell(ready=True)
    while True:
        wait_for_turn()
        found = {name: getattr(parts, name)() for name in ("environment", "acting", "learning")}
        tell(environment=found["environment"], collect=found["environment"] + found["acting"], learn=found["learning"])


def make_settings(contender: str, envs: int, steps: int) -> OnPolicySettings:
    """A contender's settings, with no end and no evaluation after the first iteration."""
    from decouple import OnPolicySettings

    return OnPolicySettings(
        algorithm="daac" if contender == "daac" else "ppo",
        rollout_steps=steps,
        minibatches=max(1, envs * steps // MINIBATCH),
        total_frames=2**31 - 1,
        evaluate_every=10**9,
    )


def make_library(options: argparse.Namespace) -> tuple[Any, Any, Any, OnPolicySettings, Any]:
    """Environment, model, phases, settings and performance of a contender."""
    import torch

    from decouple import actor_value, impala_blocks, separate
    from decouple.envs.procgen.games import procgen_env
    from decouple.on_policy.algorithms import ALGORITHMS
    from decouple.runs.performance import choose_performance

    named = {"precision": options.precision, "micro_batch": options.micro_batch, "torch_threads": options.threads}
    performance = choose_performance(options.performance, **named)
    print(performance.describe(), file=sys.stderr)
    torch.manual_seed(0)
    groups = 2 if performance.overlap else 1
    env = procgen_env(GAME, options.envs, num_levels=200, num_threads=games_threads(options), groups=groups)
    at = "full" if options.contender == "daac" else options.contender
    wide = {"channels": [options.width * channels for channels in (16, 32, 32)], "hidden_size": 256 * options.width}
    model = actor_value(separate(impala_blocks(**wide), impala_blocks(**wide), at=at), env.action_spec)
    performance.prepare(model)
    settings = make_settings(options.contender, options.envs, options.steps)
    return env, model, ALGORITHMS[settings.algorithm](model, settings), settings, performance


def run_library(options: argparse.Namespace) -> None:
    from decouple import evaluate, train_on_policy
    from decouple.envs.procgen.games import procgen_env

    env, model, phases, settings, performance = make_library(options)
    environment = stepping_alone(env, options.steps)
    facts = {"flops": counted_flops(model, phases), "images": sum(phase.epochs for phase in phases)}
    games = {
        name: lambda n, seed, levels=levels: procgen_env(
            GAME, n, scale_rewards=False, num_levels=levels, seed=seed, device=evaluation_device(performance.device)
        )
        for name, levels in (("train", 200), ("test", 0))
    }

    def evaluation(seed: int) -> dict[str, float]:
        """Evaluate as a run does, so that the peak memory includes it."""
        return evaluate(model.get_policy_operator(), games, episodes=10, seed=seed) if options.evaluation else {}

    def log(row: dict[str, float], _: int) -> None:
        collect, learn = row["time/collect_seconds"], row["time/learn_seconds"]
        tell(environment=environment, collect=collect, learn=learn, rate=matrix_rate(options.precision))
        wait_for_turn()

    tell(ready=True, **facts)
    wait_for_turn()
    with tempfile.TemporaryDirectory() as folder:
        train_on_policy(
            env,
            model,
            phases,
            settings,
            log=log,
            evaluate=evaluation,
            checkpoint=f"{folder}/checkpoint.pt",
            performance=performance,
        )


def stepping_alone(env: Any, steps: int) -> float:
    """Seconds that the games and their transforms take, with random actions."""
    actions = [env.action_spec.rand() for _ in range(steps)]
    step = env.reset()
    start = time.perf_counter()
    for action in actions:
        _, step = env.step_and_maybe_reset(step.set("action", action))
    return time.perf_counter() - start


def counted_flops(model: Any, phases: Any) -> float:
    """Floating-point operations in trunk and branches per environment step: acting, and each phase's epochs."""
    import torch
    from tensordict import TensorDict
    from torch.utils.flop_counter import FlopCounterMode

    frames, device = 4, next(model.parameters()).device
    shown = torch.zeros(frames, 64, 64, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    passes = [
        (1, model.get_features(), False),
        *((phase.epochs / phase.every, phase.features, True) for phase in phases),
    ]
    total = 0.0
    for times, features, backward in passes:
        with torch.set_grad_enabled(backward), FlopCounterMode(display=False) as counter:
            found = features(TensorDict(observation=shown, batch_size=[frames]))
            if backward:
                sum(found[key].sum() for key in ("policy_hidden", "value_hidden") if key in found.keys()).backward()
        total += times * counter.get_total_flops() / frames
    model.zero_grad()
    return total


def matrix_rate(precision: str, seconds: float = 0.5) -> float:
    """The best measured rate of a matrix product or a convolution, in floating-point operations per second."""
    import torch

    from decouple.runs.performance import choose_performance

    device = choose_performance("auto").device
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    size, frames = (2048, 128) if device == "cpu" else (8192, 2048)
    square = torch.randn(size, size, dtype=dtype, device=device)
    images = torch.randn(frames, 32, 16, 16, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    weights = torch.randn(32, 32, 3, 3, dtype=dtype, device=device)
    work: list[tuple[float, Callable[[], Any]]] = [
        (2.0 * size**3, lambda: square @ square),
        (2.0 * frames * 32 * 32 * 9 * 16 * 16, lambda: torch.conv2d(images, weights, padding=1)),
    ]
    best = 0.0
    for operations, function in work:
        function()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            synchronise(device)
            start = time.perf_counter()
            function()
            synchronise(device)
            best = max(best, operations / (time.perf_counter() - start))
    return best


def synchronise(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


def evaluation_device(device: str) -> str | None:
    return None if device == "cpu" else device


def games_threads(options: argparse.Namespace) -> int:
    return options.games_threads or min(os.cpu_count() or 1, 4)


def contend(options: argparse.Namespace) -> None:
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.cpu_clock:
        time.perf_counter = time.process_time  # for all of this process, also the library's times
    {"reference": run_reference, "parts": run_parts}.get(options.contender, run_library)(options)


# -------------------------------------------------------------------------------------------------- all of them


class Contender:
    """A process that runs one iteration on request."""

    def __init__(self, options: argparse.Namespace, **own: Any):
        self.options = argparse.Namespace(**{**vars(options), **own})
        keys = ("contender", "precision", "performance", "micro_batch", "envs", "steps", "width", "threads")
        keys = (*keys, "games_threads", "evaluation", "cpu_clock")
        settings = {key: getattr(self.options, key) for key in keys}
        command = [sys.executable, "-W", "ignore", __file__, "--contend", json.dumps(settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.turns: list[dict[str, float]] = []

    def wait_until_ready(self) -> None:
        self.facts = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.options.contender} ended with status {self.process.wait()}")
        return json.loads(line)

    def begin_turn(self) -> None:
        """Let it run one iteration."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end_turn(self) -> None:
        """Wait for the end of the iteration, and print what it took."""
        turn = self._answer()
        self.turns.append(turn)
        seconds, options = turn["collect"] + turn["learn"], self.options
        which = "warm-up" if len(self.turns) == 1 else f"round {len(self.turns) - 1}"
        rate = options.envs * options.steps / seconds
        print(
            f"{which}: {options.contender} {options.precision} {options.performance}: {seconds:.2f} s "
            f"({turn['learn']:.2f} of them learning), {rate:,.1f} environment steps/s",
            file=sys.stderr,
            flush=True,
        )

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def row(self, reference: Contender | None) -> dict[str, Any]:
        """The row of the table: medians over all turns but the first."""
        options, turns = self.options, self.turns[1:]
        frames = options.envs * options.steps
        median = {key: statistics.median(turn[key] for turn in turns) for key in ("collect", "learn")}
        seconds = statistics.median(turn["collect"] + turn["learn"] for turn in turns)
        row: dict[str, Any] = {"contender": options.contender, "precision": options.precision}
        row |= {"performance": options.performance, "envs": options.envs, "steps": options.steps}
        row |= {"width": options.width, "env_steps_per_s": round(frames / seconds, 1), "rounds": len(turns)}
        row["learning_s"] = round(median["learn"], 2)
        row["learning_images_per_s"] = round(frames * self.facts.get("images", 3) / median["learn"])
        if "environment" in turns[-1]:
            environment = statistics.median(turn["environment"] for turn in turns)
            acting = median["collect"] - environment
            row |= {"environment_s": round(environment, 2), "acting_s": round(acting, 2)}
            row["acting_images_per_s"] = round(frames / acting)
        else:
            row["acting_s"] = round(median["collect"], 2)  # includes stepping the games
        if "flops" in self.facts:
            rate = max(turn["rate"] for turn in self.turns)
            row["share_of_ceiling"] = round(frames * self.facts["flops"] / seconds / rate, 2)
        if reference is not None:
            both = zip(reference.turns[1:], turns, strict=True)
            scale = frames / (reference.options.envs * reference.options.steps)
            ratios = [scale * (r["collect"] + r["learn"]) / (own["collect"] + own["learn"]) for r, own in both]
            row["times_reference"] = round(statistics.median(ratios), 2)
        row["peak_mb"] = max(turn["peak_mb"] for turn in self.turns)
        return row


def line_up(options: argparse.Namespace) -> list[Contender]:
    """Start the chosen contenders; the reference runs in fp32 only."""
    if options.grow:
        chosen = {
            "envs": [{"envs": envs, "steps": max(1, options.steps * options.envs // envs)} for envs in (16, 64, 256)],
            "frames": [{"steps": steps} for steps in (32, 64, 128, 256)],
            "k": [{"contender": str(k)} for k in range(5)],
            "width": [{"width": width} for width in (1, 2, 4)],
        }[options.grow]
        asked = [
            {"contender": "late", "precision": precision, "performance": performance, **own}
            for precision in options.precision
            for performance in options.performance
            for own in chosen
        ]
    else:
        asked = [
            {"contender": contender, "precision": precision, "performance": performance}
            for precision in options.precision
            for performance in options.performance
            for contender in options.contenders
            if contender != "reference"
        ]
        if "reference" in options.contenders:
            asked.insert(0, {"contender": "reference", "precision": "fp32", "performance": "reference"})
    contenders = [Contender(options, **own) for own in asked]
    for contender in contenders:
        contender.wait_until_ready()
    return contenders


def context(options: argparse.Namespace) -> dict[str, Any]:
    """Date, machine and settings of the measurement."""
    import torch

    from decouple.runs.performance import processor_kind

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_kind()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{device}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "threads": options.threads or torch.get_num_threads(),
        "clock": "cpu" if options.cpu_clock else "wall",
        "load": round(os.getloadavg()[0], 1),
    }


def show(rows: list[dict[str, Any]]) -> None:
    from decouple.runs.files import markdown_lines

    further = [column for column in ("performance", "envs", "steps", "width") if len({row[column] for row in rows}) > 1]
    columns = [*SHOWN, *further]
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    print(markdown_lines([[SHOWN.get(column, column) for column in columns], *cells]))


def record(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append the rows to a CSV of dated measurements."""
    columns = [*KEPT, *(column for column in SHOWN if column not in KEPT)]
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = ["reference", "parts", "shared", "late", "early", "full", "daac"]
    parser.add_argument("--contenders", nargs="+", default=everything, metavar="NAME", help=" ".join(everything))
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--performance", nargs="+", default=["auto"], choices=["auto", "fastest", "reference"])
    parser.add_argument("--micro-batch", type=int, help="frames per backward pass")
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--width", type=int, default=1, help="factor of channels and units")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no round after so many seconds")
    parser.add_argument("--threads", type=int, help="torch's threads")
    parser.add_argument("--games-threads", type=int)
    parser.add_argument("--grow", choices=["envs", "frames", "k", "width"], help="setting to vary, with late")
    parser.add_argument("--no-evaluation", dest="evaluation", action="store_false", help="exclude it from peak memory")
    parser.add_argument("--cpu-clock", action="store_true", help="measure processor time instead of wall time")
    parser.add_argument("--record", type=Path, help="append the rows to this CSV")
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    options = parser().parse_args()
    if options.contend:
        contend(argparse.Namespace(**json.loads(options.contend)))
        return
    where, began = context(options), time.monotonic()
    contenders = line_up(options)
    for contender in contenders:
        contender.begin_turn()  # the warm-ups, in which a GPU's code is compiled, all at once
    for contender in contenders:
        contender.end_turn()
    for number in range(options.rounds):
        if number and time.monotonic() - began > options.seconds:
            break
        for contender in contenders:
            contender.begin_turn()
            contender.end_turn()
    for contender in contenders:
        contender.stop()
    reference = next((c for c in contenders if c.options.contender == "reference"), None)
    rows = [where | contender.row(reference) for contender in contenders]
    show(rows)
    if options.record:
        record(options.record, rows)


if __name__ == "__main__":
    main()
