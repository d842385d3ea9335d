"""Frames per second of a Procgen run and where they go: environment, acting, learning; and its peak memory.

    python benchmarks/procgen_ppo.py                                  # the default run
    python benchmarks/procgen_ppo.py --separation shared late full --precision fp32 bf16 --iterations 3

Each row is one process of its own, so that peak memory is its own; figures are medians over iterations. `environment`
is measured apart, by stepping the same games with random actions; `acting` is the rest of collecting a rollout. As in
the default run, evaluation (10 episodes on training and on test levels) and checkpoints are there, and count in the
peak.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

COLUMNS = "separation", "precision", "frames/s", "environment s", "acting s", "learning s", "peak memory MB"


def measure(separation: str, precision: str, algorithm: str, iterations: int) -> dict[str, float | str]:
    import torch

    from decouple import OnPolicySettings, actor_value, evaluate, impala_blocks, separate, train_on_policy
    from decouple.envs.procgen import procgen_env
    from decouple.on_policy import ALGORITHMS

    torch.manual_seed(0)
    num_envs, steps = 64, OnPolicySettings.rollout_steps
    env = procgen_env("starpilot", num_envs, num_levels=200)
    model = actor_value(separate(impala_blocks(), impala_blocks(), at=separation), env.action_spec)
    settings = OnPolicySettings(
        algorithm=algorithm, precision=precision, total_frames=(1 + iterations) * num_envs * steps
    )
    rows: list[dict[str, float]] = []
    games = {
        name: lambda n, seed, levels=levels: procgen_env(
            "starpilot", n, scale_rewards=False, num_levels=levels, seed=seed
        )
        for name, levels in (("train", 200), ("test", 0))
    }
    with tempfile.TemporaryDirectory() as folder:
        train_on_policy(
            env,
            model,
            ALGORITHMS[algorithm](model, settings),
            settings,
            log=lambda row, _: rows.append(row),
            evaluate=lambda seed: evaluate(model.get_policy_operator(), games, episodes=10, seed=seed),
            checkpoint=f"{folder}/checkpoint.pt",
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux: KiB
    actions = [env.action_spec.rand() for _ in range(steps)]
    step = env.reset()
    start = time.perf_counter()
    for action in actions:
        _, step = env.step_and_maybe_reset(step.set("action", action))
    environment = time.perf_counter() - start
    collect, learn, speed = (
        statistics.median(row[f"time/{key}"] for row in rows[1:])  # the first iteration warms up
        for key in ("collect_seconds", "learn_seconds", "frames_per_second")
    )
    figures = (speed, environment, collect - environment, learn, peak)
    return dict(zip(COLUMNS, (separation, precision, *(round(figure, 1) for figure in figures)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--separation", nargs="+", default=["late"])
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    parser.add_argument("--algorithm", default="ppo")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.separation[0], options.precision[0], options.algorithm, options.iterations)))
        return
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for separation in options.separation:
        for precision in options.precision:
            command = [sys.executable, "-W", "ignore", __file__, "--one", "--algorithm", options.algorithm]
            command += ["--separation", separation, "--precision", precision, "--iterations", str(options.iterations)]
            row = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            print("| " + " | ".join(str(row[column]) for column in COLUMNS) + " |", flush=True)


if __name__ == "__main__":
    main()
