"""Choose where a policy network and a value network separate, on TorchRL."""

from decouple._moved import refuse_old_paths
from decouple.analysis.evaluation import episode_returns, evaluate
from decouple.deploy.export import actor_latency, export_actor
from decouple.deploy.plain_actor import ObservationScaling, PlainActor
from decouple.networks.actor_qvalue import ActorQValue, actor_qvalue
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import impala_blocks, mlp_blocks, nature_blocks
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.networks.separation import (
    SeparatedNetwork,
    cut_gradients,
    scale_gradient,
    separate,
    separation_index,
)
from decouple.networks.stacking import stack, unstack
from decouple.off_policy.learner import Learner
from decouple.off_policy.settings import DDPGSettings, SACSettings, TD3Settings
from decouple.off_policy.torchrl_learner import TorchRLLearner
from decouple.off_policy.training import train_off_policy
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.algorithms.idaac import idaac_phases
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.algorithms.trpo import TRPOSettings, trpo_phases
from decouple.on_policy.losses import (
    AdvantageHead,
    AdvantageLoss,
    OrderClassifier,
    OrderClassifierLoss,
    OrderLoss,
    ValueLoss,
    same_level_partners,
)
from decouple.on_policy.phases import Phase, run_phase
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.training import train_on_policy
from decouple.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from decouple.seeding import SeedNoise
from decouple.version import VERSION

__version__ = VERSION
refuse_old_paths()

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
