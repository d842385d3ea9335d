"""algorithms.py and settings.py: an entry for each algorithm, and the settings of a run that it gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from test_cell import cell

from decouple.off_policy.settings import DDPGSettings, SACSettings, TD3Settings
from decouple.on_policy.algorithms.trpo import TRPOSettings
from decouple.on_policy.settings import OnPolicySettings
from decouple.runs.settings import changed, flat
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS, PPOControl, SACControl, TD3Control, algorithm_of
from decouple.studies.actor_size.settings import ControlSettings

OF_0_1 = Path(__file__).parents[2] / "data" / "decouple_0_1"


@pytest.mark.parametrize(
    ("algorithm", "setting", "says"),
    [
        ("sac", {"seeds": 0}, "seeds must be a whole number, at least 1; got 0"),
        ("sac", {"actor": [4, 0]}, r"actor must be a list of positive sizes; got \[4, 0\]"),
        ("sac", {"critic_activation": "swish"}, r"critic_activation must be one of \['elu'.*got 'swish'"),
        ("sac", {"update": "torchrl", "seeds": 2}, "update must be auto for more than one seed and for sac"),
        ("ppo", {"update": "torchrl"}, "update must be auto for more than one seed and for ppo"),
        ("sac", {"seed": 2**31}, r"seed must be .*; got 2147483648"),
        ("td3", {"gamma": 2.0}, r"gamma must be in \[0, 1\]; got 2.0"),
    ],
)
def test_bad_settings_are_refused_by_name(algorithm, setting, says):
    with pytest.raises(ValueError, match=says):
        cell(algorithm, **setting)


def test_ppo_clips_values_where_rewards_are_normalised_unless_told_otherwise():
    assert cell("ppo").learning.clip_value is None
    assert cell("ppo", normalize_reward=True).learning.clip_value == 0.2
    assert cell("ppo", clip_value=0.3).learning.clip_value == 0.3
    assert cell("ppo", normalize_reward=True, clip_value=None).learning.clip_value is None
    assert cell("trpo").learning.clip_value == 0.2  # plays no part there, and is what its checkpoints have
    with pytest.raises(ValueError, match="clip_value must be positive and finite, or None; got 'on'"):
        cell("ppo", clip_value="on")


@pytest.mark.parametrize("algorithm", ["daac", "idaac"])
def test_daac_and_idaac_have_ppos_settings_and_the_papers_own(algorithm):
    own, ppo = flat(cell(algorithm)), flat(cell("ppo"))
    assert {name for name in own if own[name] != ppo[name]} == {"algorithm", "epochs"}
    learning = cell(algorithm).learning
    assert (learning.policy_epochs, learning.value_epochs, learning.value_every) == (1, 9, 1)
    assert (learning.advantage_coeff, learning.order_coeff) == (0.25, 0.001)
    assert cell(algorithm, normalize_reward=True).learning.clip_value == 0.2


def test_an_algorithms_settings_have_its_name():
    with pytest.raises(ValueError, match=r"algorithm must be \['sac'\] for SACControl; got 'td3'"):
        SACControl(algorithm="td3")
    with pytest.raises(ValueError, match=r"algorithm must be \['ppo'\] for PPOControl; got 'daac'"):
        PPOControl(algorithm="daac")


@pytest.mark.parametrize(
    ("algorithm", "own"),
    [
        *(("sac", SACSettings), ("td3", TD3Settings), ("ddpg", DDPGSettings), ("ppo", OnPolicySettings)),
        *(("daac", OnPolicySettings), ("idaac", OnPolicySettings), ("trpo", TRPOSettings)),
    ],
)
def test_a_run_holds_the_algorithms_settings_as_a_part(algorithm, own):
    settings = CONTROL_ALGORITHMS[algorithm](env="toy", gamma=0.5)
    assert type(settings.learning) is own and settings.learning.gamma == 0.5 and settings.env == "toy"
    assert algorithm_of(settings) is CONTROL_ALGORITHMS[algorithm] and settings.algorithm == algorithm
    assert flat(settings) == CONTROL_ALGORITHMS[algorithm].keys.defaults | {
        **{"env": "toy", "gamma": 0.5},
        **({"clip_value": None} if algorithm in ("ppo", "daac", "idaac") else {}),
    }
    assert CONTROL_ALGORITHMS[algorithm](**flat(settings)) == settings


@pytest.mark.parametrize("run", ["sac_pixelcopter", "td3_toy", "ppo_acrobot"])
def test_the_flat_keys_are_those_of_version_0_1_in_its_order(run):
    before = yaml.safe_load((OF_0_1 / run / "config.yaml").read_text())
    settings = CONTROL_ALGORITHMS[before["algorithm"]](**before)
    assert {name: value for name, value in flat(settings).items() if name in before} == before
    keys = [name for name in flat(settings) if name in before]
    if before["algorithm"] == "ppo":  # its algorithm's settings came with its name first
        keys = ["algorithm", *(name for name in keys if name != "algorithm")]
    assert keys == list(before)


def test_settings_that_are_another_algorithms_are_refused():
    with pytest.raises(ValueError, match=r"learning must be OnPolicySettings for algorithm=ppo; got SACSettings\("):
        algorithm_of(ControlSettings(algorithm="ppo"))
    with pytest.raises(ValueError, match=r"algorithm must be one of \['sac', .*; got 'a2c'"):
        algorithm_of(ControlSettings(algorithm="a2c"))
    with pytest.raises(ValueError, match="gama must not be added: TD3Control has no such setting"):
        TD3Control(gama=0.9)
    with pytest.raises(ValueError, match="clip_value must not be added: SACControl has no such setting"):
        SACControl(clip_value=0.2)


def test_a_changed_copy_is_checked_as_a_whole():
    config = cell("ppo", num_envs=2, rollout_steps=1, minibatches=1)
    with pytest.raises(ValueError, match="rollout_steps must be at least 2 with one environment"):
        changed(config, num_envs=1)
    with pytest.raises(ValueError, match="rollout_steps must be at least 2 with one environment"):
        dataclasses.replace(config, num_envs=1)
    assert changed(config, num_envs=1, rollout_steps=2).frames_per_iteration == 2
    assert changed(cell("td3"), num_envs=3).frames_per_iteration == 3


@pytest.mark.parametrize(("total", "begins"), [(2000, 200), (10_000, 1000), (10_001, 10_000), (9, 0)])
def test_the_default_of_learning_starts_gives_way_to_a_shorter_run(total, begins):
    assert TD3Control(env="pendulum", total_frames=total).learning.learning_starts == begins
    with pytest.raises(ValueError, match=r"learning_starts must be .*; got 10001"):
        TD3Control(env="pendulum", total_frames=total, learning_starts=10_001)
    assert "learning_starts" not in flat(PPOControl(env="pendulum", total_frames=total))
