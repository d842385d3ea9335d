"""Choose where a policy network and a value network separate, on TorchRL."""

from decouple.actor_critic import ActorValue, actor_value
from decouple.actor_qvalue import ActorQValue, actor_qvalue
from decouple.blocks import impala_blocks, mlp_blocks, nature_blocks
from decouple.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from decouple.counting import multiply_adds, parameter_count
from decouple.evaluation import episode_returns, evaluate
from decouple.export import actor_latency, export_actor
from decouple.learner import Learner
from decouple.losses import (
    AdvantageHead,
    AdvantageLoss,
    OrderClassifier,
    OrderClassifierLoss,
    OrderLoss,
    ValueLoss,
    same_level_partners,
)
from decouple.off_policy import train_off_policy
from decouple.off_policy_settings import DDPGSettings, SACSettings, TD3Settings
from decouple.on_policy import OnPolicySettings, daac_phases, idaac_phases, ppo_phases, train_on_policy
from decouple.phases import Phase, run_phase
from decouple.plain_actor import ObservationScaling, PlainActor
from decouple.seeds import SeedNoise, stack, unstack
from decouple.separation import (
    SeparatedNetwork,
    cut_gradients,
    scale_gradient,
    separate,
    separation_index,
)
from decouple.torchrl_learner import TorchRLLearner
from decouple.trpo import TRPOSettings, trpo_phases
from decouple.version import VERSION

__version__ = VERSION

__all__ = [
    "ActorQValue",
    "ActorValue",
    "AdvantageHead",
    "AdvantageLoss",
    "CheckpointError",
    "DDPGSettings",
    "Learner",
    "ObservationScaling",
    "OnPolicySettings",
    "OrderClassifier",
    "OrderClassifierLoss",
    "OrderLoss",
    "Phase",
    "PlainActor",
    "SACSettings",
    "SeedNoise",
    "SeparatedNetwork",
    "TD3Settings",
    "TRPOSettings",
    "TorchRLLearner",
    "ValueLoss",
    "actor_latency",
    "actor_qvalue",
    "actor_value",
    "cut_gradients",
    "daac_phases",
    "episode_returns",
    "evaluate",
    "export_actor",
    "idaac_phases",
    "impala_blocks",
    "load_checkpoint",
    "mlp_blocks",
    "multiply_adds",
    "nature_blocks",
    "parameter_count",
    "ppo_phases",
    "run_phase",
    "same_level_partners",
    "save_checkpoint",
    "scale_gradient",
    "separate",
    "separation_index",
    "stack",
    "train_off_policy",
    "train_on_policy",
    "trpo_phases",
    "unstack",
]
