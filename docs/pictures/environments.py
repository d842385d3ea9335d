"""Draw environments.png, each environment of the actor-size study a little way into a game.

MUJOCO_GL=egl python docs/pictures/environments.py
"""

from pathlib import Path

import gymnasium
import numpy as np
from matplotlib.figure import Figure

import decouple.envs.games.gymnasium_env  # noqa: F401  (registers the games)

ENVIRONMENTS = {  # name: id, and the steps after which its picture is taken
    "pendulum": ("Pendulum-v1", 30),
    "acrobot": ("Acrobot-v1", 60),
    "reacher": ("Reacher-v5", 20),
    "halfcheetah": ("HalfCheetah-v5", 40),
    "ant": ("Ant-v5", 40),
    "pong": ("decouple/Pong-v0", 25),
    "pixelcopter": ("decouple/Pixelcopter-v0", 40),
    "foodcollector": ("decouple/FoodCollector-v0", 25),
}


def picture(task: str, steps: int) -> np.ndarray:
    env = gymnasium.make(task, render_mode="rgb_array")
    observation, _ = env.reset(seed=1)
    env.action_space.seed(1)
    for _ in range(steps):
        hovers = task == "decouple/Pixelcopter-v0"  # climbs where the floor is nearer than the ceiling
        action = int(observation[2] < observation[3]) if hovers else env.action_space.sample()
        observation, *_ = env.step(action)
    frame = env.render()
    env.close()
    return frame


def main() -> None:
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    for axis, (name, (task, steps)) in zip(figure.subplots(2, 4).flat, ENVIRONMENTS.items(), strict=True):
        axis.imshow(picture(task, steps))
        axis.set_title(name)
        axis.axis("off")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=90)


if __name__ == "__main__":
    main()
