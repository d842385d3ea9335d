"""Small runs and a store, as decouple 0.1 left them; run in an empty folder with the code at 7a309d8.

Of what it writes the pictures were removed, in study/ the run folders but one, and in the store the machine's name.
"""

import json
from pathlib import Path

from decouple.cell_store import CellStore
from decouple.cells import train_cells
from decouple.control import PPOControl, SACControl, TD3Control, train_agents

SMALL = {"actor": [4], "critic": [4], "show_progress": False, "evaluate_episodes": 1, "final_episodes": 1}
OFF = SMALL | {
    **{"total_frames": 200, "learning_starts": 50, "batch_size": 8, "buffer_size": 1000, "log_every": 50},
    **{"evaluate_every": 100, "checkpoint_every": 100, "keep_replay": True},
}
ON = SMALL | {"total_frames": 100, "rollout_steps": 50, "minibatches": 2, "epochs": 1}


if __name__ == "__main__":  # pytest imports this file, for its doctests
    train_agents(SACControl(env="pixelcopter", run_dir="sac_pixelcopter", **OFF))
    train_agents(TD3Control(env="toy", run_dir="td3_toy", **OFF))
    train_agents(PPOControl(env="pong", run_dir="ppo_pong", frame_skip=4, **ON))
    train_agents(PPOControl(env="acrobot", run_dir="ppo_acrobot", **ON))
    store = CellStore("study/cells.sqlite")
    OFF["keep_replay"] = False
    configs = [
        SACControl(env="pixelcopter", seeds=2, **OFF),
        TD3Control(env="toy", seeds=2, **OFF),
        PPOControl(env="pong", seeds=2, frame_skip=4, **ON),
    ]
    returns = train_cells(configs, store, lambda config, go_on: train_agents(config))
    by_task = {config.env: each for config, each in zip(configs, returns, strict=True)}
    Path("study/returns.json").write_text(json.dumps(by_task) + "\n")
