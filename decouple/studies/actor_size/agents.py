"""The S agents of a cell, trained as one batch: their training, their policies, and loading them.

agents = OffPolicyAgents(config, models)                # SAC, TD3, DDPG
agents = OnPolicyAgents(config, models, ppo_phases)     # PPO, DAAC, IDAAC, TRPO
agents.train(env, failed, resume=None, log=print, ...)
agents.models()                                         # each agent as a model of its own
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from decouple.checks import check_setting
from decouple.networks.stacking import stack, unstack
from decouple.off_policy.compiled_learner import CompiledLearner, not_compiled
from decouple.off_policy.learners import make_learner
from decouple.off_policy.training import GreedyPolicy, replay_for, train_off_policy
from decouple.off_policy.value_bias import value_bias
from decouple.on_policy.compiled_phase import CompiledPhase
from decouple.on_policy.compiled_phase import not_compiled as phase_not_compiled
from decouple.on_policy.gates import learn_gates
from decouple.on_policy.kept import idle_text, kept_text
from decouple.on_policy.phases import RolloutPhase
from decouple.on_policy.rollouts import ModePolicy
from decouple.on_policy.training import train_on_policy
from decouple.runs.checkpoint import load_checkpoint
from decouple.runs.finite import FailedSeeds
from decouple.runs.locks import BEGIN_ANEW
from decouple.runs.progress import StepProgress
from decouple.seeding import SeedNoise, seed_metrics
from decouple.studies.actor_size.branches import BranchMeasure
from decouple.studies.actor_size.build import make_env
from decouple.studies.actor_size.settings import FINAL_SEED, ControlSettings

__all__ = ["Agents", "OffPolicyAgents", "OnPolicyAgents"]


class Agents(Protocol):
    """The interface of a cell's agents.

    Attributes:
        policy: all agents' policies without exploration, for `episode_returns`.
        update: how updates are computed, and where it is slow why, in a few words.
    """

    policy: TensorDictModuleBase
    update: str

    def check_files(self, resume: int | None) -> None:
        """Raise FileNotFoundError where a file is gone that training on from `resume` frames needs."""
        ...

    def keeps(self, env: EnvBase) -> str:
        """What training keeps of its rollouts, and which phases it is too short for, as the end of a line on a run."""
        ...

    def train(self, env: EnvBase, failed: FailedSeeds, resume: int | None, **loop: Any) -> None:
        """Train to the end, or load a run that is done. `loop` holds the arguments that both training loops have."""
        ...

    def diagnosis(self, env: EnvBase, failed: FailedSeeds) -> dict[str, float]:
        """Metrics of trained agents besides their returns."""
        ...

    def close(self) -> None:
        """Delete the files that a finished run needs no more."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Load the parameters from a checkpoint's content."""
        ...

    def models(self) -> list[Any]:
        """Each agent as a model of its own."""
        ...


class OffPolicyAgents:
    """Agents of SAC, TD3 or DDPG: a learner, and a replay in the run's folder."""

    def __init__(self, config: ControlSettings, models: Sequence[Any], *, device: str = "cpu"):
        on_gpu = "auto or batched on a GPU"
        check_setting("update", config.update, lambda how: device == "cpu" or how in ("auto", "batched"), on_gpu)
        models = models if device == "cpu" else [copy.deepcopy(model).to(device) for model in models]
        self.config, self.learner = config, make_learner(models, config.learning, config.update)
        self.policy = GreedyPolicy(self.learner)
        auto, compiled = config.update == "auto", isinstance(self.learner, CompiledLearner)
        self.update = _told(compiled, not_compiled(models) if auto and not compiled else None)
        self.replay_file = Path(config.run_dir) / "replay.bin"

    def check_files(self, resume: int | None) -> None:
        if resume and resume < self.config.learning.total_frames and not self.replay_file.exists():
            raise FileNotFoundError(
                f"{self.replay_file} is gone, and the run cannot go on without it (see keep_replay); put it back, or "
                f"{BEGIN_ANEW}"
            )

    def keeps(self, env: EnvBase) -> str:
        """Empty: transitions go to the replay, whose size is a setting."""
        return ""

    def train(self, env: EnvBase, failed: FailedSeeds, resume: int | None, **loop: Any) -> None:
        if resume is None or resume < self.config.learning.total_frames:
            replay = replay_for(env, self.learner, self.replay_file)
            train_off_policy(env, self.learner, replay=replay, failed=failed, **loop)
            return
        state = load_checkpoint(loop["checkpoint"], expect=loop["identity"])
        self.load(state)
        env.load_state_dict(state["env"])  # its statistics scale the evaluation's observations
        failed.load_state_dict(state.get("failed", {}))
        failed.check(self.learner.weights(), f"in {loop['checkpoint']}")

    def diagnosis(self, env: EnvBase, failed: FailedSeeds) -> dict[str, float]:
        """Bias of the critics after training; empty where it cannot be measured (see `value_bias`), or where rewards
        were normalised, which only `env` can do."""
        config = self.config
        if config.normalize_reward:
            return {}
        seeds = [FINAL_SEED + seed for seed in config.all_seeds]
        with contextlib.closing(make_env(config, config.evaluate_episodes, seeds, env)) as fresh:
            found = value_bias(fresh, self.learner, SeedNoise(seeds, self.learner.device))
        rows: list[dict[str, float]] = []
        for agent in range(config.seeds):
            of_agent = {name.replace("value/", "final/value_"): each[agent].item() for name, each in found.items()}
            rows.append({name: value for name, value in of_agent.items() if np.isfinite(value)})
        return seed_metrics(failed.kept(rows), config.all_seeds)

    def close(self) -> None:
        if not self.config.keep_replay:
            self.replay_file.unlink(missing_ok=True)

    def load(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])

    def models(self) -> list[Any]:
        return self.learner.models()


class OnPolicyAgents:
    """Agents of an algorithm that learns from rollouts: a stacked model, and the phases of a rollout."""

    def __init__(
        self,
        config: ControlSettings,
        models: Sequence[Any],
        phases_of: Callable[..., Sequence[RolloutPhase]],
        compiled: Callable[..., Sequence[RolloutPhase]] | None = None,
        *,
        own_modules: bool = False,
        device: str = "cpu",
    ):
        """The agents.

        Args:
            config: the run's settings.
            models: one agent's networks for each seed.
            phases_of: function that makes the algorithm's phases of a stacked model and the algorithm's settings.
            compiled: function that makes the same phases by kernels; None where there are none.
            own_modules: True where phases have modules of their own, as DAAC's advantage head: the functions then get
                the seeds too, from which these are initialised.
            device: device of the stacked model and its phases.
        """
        self.config, self.alone, self.model = config, list(models), stack(models).to(device)
        why, make = None, phases_of
        if config.update != "batched":  # to ask imports Numba
            why = phase_not_compiled(self.model, config.learning) if compiled else "its phases have no kernels"
            make = compiled if compiled and why is None else phases_of
        if config.update == "compiled":
            check_setting("update", config.update, lambda _: why is None, f"auto or batched here: {why}")
        phases = make(self.model, config.learning, *([config.all_seeds] if own_modules else []))
        self.phases = learn_gates(self.model, phases, config.learning) if self.model.gated else phases
        first = self.phases[0]
        compiled_agents = first.agents if isinstance(first, CompiledPhase) else None
        self.policy = ModePolicy(self.model, compiled_agents and compiled_agents.mode_kernels)
        self.update = _told(compiled_agents is not None, why)

    def check_files(self, resume: int | None) -> None:
        """Nothing to check: on policy, only the checkpoint is needed."""

    def keeps(self, env: EnvBase) -> str:
        learning, games = self.config.learning, env.batch_size[-1]
        idle = idle_text(self.phases, learning.total_frames, games * learning.rollout_steps)
        return kept_text(self.phases, env, learning.rollout_steps) + idle

    def train(self, env: EnvBase, failed: FailedSeeds, resume: int | None, **loop: Any) -> None:
        config = self.config
        steps = StepProgress() if config.show_progress else None
        measure = BranchMeasure(self.model, config.all_seeds, failed) if config.measure_branches else None
        loop |= {"failed": failed, "progress": steps, "measure": measure}
        train_on_policy(env, self.model, self.phases, config.learning, **loop)
        if steps:
            steps.close()

    def diagnosis(self, env: EnvBase, failed: FailedSeeds) -> dict[str, float]:
        """Empty: the critic does not value actions."""
        return {}

    def close(self) -> None:
        """Nothing to delete."""

    def load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])

    def models(self) -> list[Any]:
        unstack(self.model, self.alone)
        return self.alone


def _told(compiled: bool, why: str | None) -> str:
    """How updates are computed, in a few words, and `why` they are not compiled where that was asked for."""
    return "compiled updates" if compiled else "batched updates" + (f", since {why}" if why else "")
