"""learners.py: the learner of a model, and that the two learners answer to the same calls with the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_learner import OBSERVATION, SETTINGS, make_batch, make_model, make_settings

from decouple.off_policy.learner import Learner
from decouple.off_policy.learners import OffPolicyLearner, make_learner
from decouple.off_policy.settings import TD3Settings
from decouple.off_policy.torchrl_learner import TorchRLLearner
from decouple.seeding import SeedNoise


def test_update_chooses_the_learner():
    models = [make_model("td3", seed=seed) for seed in (0, 1)]
    assert type(make_learner(models, TD3Settings(), update="batched")) is Learner
    assert type(make_learner(models[:1], TD3Settings(), update="torchrl")) is TorchRLLearner
    with pytest.raises(ValueError, match="update must be auto, compiled or batched for 2 models; got 'torchrl'"):
        make_learner(models, TD3Settings(), update="torchrl")
    with pytest.raises(ValueError, match="update must be one of auto, compiled, batched, torchrl; got 'torch'"):
        make_learner(models, TD3Settings(), update="torch")


def public(kind: Any) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_") and callable(getattr(kind, name))}


def test_both_learners_have_the_methods_of_the_interface_and_no_others():
    interface = public(OffPolicyLearner) | public(OffPolicyLearner.__mro__[1])
    assert public(Learner) == public(TorchRLLearner) == interface
    assert {"act", "judge", "update", "weights", "models"} <= interface


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("algorithm", SETTINGS)
def test_both_judge_the_same_action_to_the_same_value(algorithm: str, k: int) -> None:
    """After an update, so that the critics are those that have been learned, with the temperature."""
    theirs: Any = make_learner([make_model(algorithm, k)], make_settings(algorithm), "torchrl")
    torch.manual_seed(0)
    theirs.update(make_batch(algorithm, 0), SeedNoise([0]))
    ours = Learner(theirs.models(), theirs.settings)
    if ours.log_alpha is not None:
        ours.log_alpha.data.fill_(theirs.loss.log_alpha.item())
    observation = torch.randn(1, 5, OBSERVATION)
    judged = [each.judge(observation, SeedNoise([3])) for each in (ours, theirs)]
    for here, there in zip(*judged, strict=True):
        torch.testing.assert_close(here, there)
    action, value, entropy = judged[1]
    assert action.shape[:2] == value.shape[:2] == (1, 5) and value.shape[2] == entropy.shape[2] == 1
    assert bool(entropy.any()) == ("sac" in algorithm)
