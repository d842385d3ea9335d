"""deploy/export.py and plain_actor.py: files against the models that they came from, and against plain NumPy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from marks import slow_but
from pairwise import each
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, MultiCategorical, OneHot, TensorSpec, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

import decouple.deploy.export
from decouple.deploy.checking import difference_from
from decouple.deploy.export import actor_latency, export_actor
from decouple.deploy.plain_actor import ObservationScaling, PlainActor
from decouple.envs.control.tasks import control_env
from decouple.networks.actor_qvalue import ActorQValue, actor_qvalue
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import impala_blocks, mlp_blocks, nature_blocks
from decouple.networks.gating import gated
from decouple.networks.recurrence import gru_block, lstm_block
from decouple.networks.separation import separate
from decouple.networks.stacking import stack

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

BOX = Bounded(torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 0.5]), (2,))
SCALING = ObservationScaling(torch.tensor([1.0, -20.0, 0.0]), torch.tensor([0.5, 3.0, 1e-4]), 10.0)


def with_biases(model: Any) -> Any:
    """Biases, and scales, that are not the zeros which they start from."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.5, 0.5)
    return model


def on_policy(spec: TensorSpec = BOX, k: int = 0) -> ActorValue:
    """As PPO and TRPO have it."""
    network = separate(mlp_blocks(3, [8, 4]), mlp_blocks(3, [8, 16]), at=k, example=torch.zeros(3))
    return with_biases(actor_value(network, spec, policy_gain=1.0))


def off_policy(spec: TensorSpec = BOX, k: int = 0, *, deterministic: bool = False, twin: bool = True) -> ActorQValue:
    """As SAC, discrete SAC, TD3 and DDPG have it."""
    action = 2 if isinstance(spec, Bounded) else 0
    example = {"observation": torch.zeros(3)} | ({"action": torch.zeros(action)} if action else {})
    policy = mlp_blocks(3, [8, 4], nn.ReLU)

    def critic() -> list[nn.Module]:
        return [*policy[:k], *mlp_blocks((8 if k else 3) + action, [8, 16][k:], nn.ReLU)]

    network = separate(policy, critic(), at=k, value_keys=["action"] if action else [], example=example)
    twin_blocks = critic() if twin else None
    return with_biases(actor_qvalue(network, spec, twin_blocks=twin_blocks, deterministic=deterministic))


def of_frames(blocks: Any, shape: tuple[int, ...], k: int, **options: Any) -> ActorValue:
    network = separate(blocks(shape, **options), blocks(shape, **options), at=k)
    return actor_value(network, Categorical(15), policy_gain=1.0)


SAMPLING = {
    "ppo": on_policy,
    "ppo, shared layer": lambda: on_policy(k=1),
    "ppo, discrete": lambda: on_policy(Categorical(5)),
    "ppo, one-hot": lambda: on_policy(OneHot(5)),
    "ppo, several": lambda: on_policy(MultiCategorical([3, 2])),
    "ppo, unbounded": lambda: on_policy(Unbounded((2,))),
    "sac": off_policy,
    "sac, shared layer": lambda: off_policy(k=1),
    "sac, discrete": lambda: off_policy(Categorical(5)),
}
ACTORS = SAMPLING | {
    "td3": lambda: off_policy(deterministic=True),
    "ddpg": lambda: off_policy(deterministic=True, twin=False),
}
SAME_GRAPH = {"ppo", "ddpg"}  # as another has; not made in ONNX, which takes seconds


def own_actions(model: ActorValue | ActorQValue, observation: Tensor) -> np.ndarray:
    """The model's actions without exploration, by TorchRL."""
    step = TensorDict(observation=observation, batch_size=len(observation))
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return model.get_policy_operator()(step)["action"].numpy()


def by_onnx(path: Path, *inputs: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    return session.run(["action"], {name: x.numpy() for name, x in zip(names, inputs, strict=True)})[0]


def by_torch(path: Path, *inputs: Tensor) -> np.ndarray:
    return torch.export.load(path).module()(*inputs).numpy()


def layers(model: ActorValue | ActorQValue) -> list[np.ndarray]:
    """Weights and biases of the actor's linear layers."""
    modules = [*model.parts()["trunk"], *model.parts()["policy"]]
    linear = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [p.detach().numpy() for layer in linear for p in (layer.weight, layer.bias)]


MARK = 777.125  # what critics are filled with; no actor holds it by chance


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Name of an actor, ending -> its model, critics marked, and its file; made once, for ONNX takes a while."""
    folder = tmp_path_factory.mktemp("shipped")
    made = {}

    def make(name: str, suffix: str) -> tuple[ActorValue | ActorQValue, Path]:
        if (name, suffix) not in made:
            torch.manual_seed(0)
            model = ACTORS[name]()
            with torch.no_grad():
                for parameter in critics(model):
                    parameter.fill_(MARK)
            path = folder / f"{name}.{suffix}"
            made[name, suffix] = model, export_actor(model, path).path
        return made[name, suffix]

    return make


def critics(model: ActorValue | ActorQValue) -> list[nn.Parameter]:
    parts = model.parts()
    return [p for part in parts if part not in ("trunk", "policy") for m in parts[part] for p in m.parameters()]


# ------------------------------------------------------------------------------------------------------- the actions


@pytest.mark.parametrize("name", ACTORS)
def test_every_algorithms_actor_acts_from_its_file_as_in_its_model(name, shipped):
    observation = torch.randn(70, 3)
    runs = {"pt2": by_torch} | ({"onnx": by_onnx} if name not in SAME_GRAPH else {})
    for suffix, run in runs.items():
        model, path = shipped(name, suffix)
        expected = own_actions(model, observation)
        for batch in (1, 70):
            action = run(path, observation[:batch])
            assert action.dtype == expected.dtype and action.shape == expected[:batch].shape
            np.testing.assert_allclose(action, expected[:batch], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLING)
def test_an_actor_that_samples_is_its_models_distribution(name, tmp_path):
    """The same noise gives the same action; the check inside compares with TorchRL's distribution at that noise."""
    model = SAMPLING[name]()
    actor = PlainActor(model, sample=True)
    report = export_actor(model, tmp_path / "actor.pt2", sample=True)
    observation, noise = actor.random_inputs(9, seed=3)
    drawn = by_torch(report.path, observation, noise)
    assert (drawn != own_actions(model, observation)).any() and (
        drawn == by_torch(report.path, observation, noise)
    ).all()
    kind = report.metadata["noise"]["distribution"]
    assert kind == ("standard normal" if drawn.dtype == np.float32 else "standard Gumbel")


@pytest.mark.parametrize(("name", "kind"), [("ppo", "normal"), ("sac, discrete", "Gumbel")])
def test_onnx_takes_the_noise_as_a_second_input(name, kind, tmp_path):
    model = SAMPLING[name]()
    path = export_actor(model, tmp_path / "actor.onnx", sample=True).path
    observation, noise = PlainActor(model, sample=True).random_inputs(9)
    step = TensorDict(observation=observation, batch_size=9)
    with torch.no_grad():
        distribution = model.get_policy_operator().get_dist(step)
    if kind == "normal":
        normal = distribution.root_dist
        squashed = torch.tanh(normal.loc + normal.scale * noise)
        expected = BOX.space.low + (BOX.space.high - BOX.space.low) * (1 + squashed) / 2
    else:
        expected = (distribution.logits + noise).argmax(-1)
    np.testing.assert_allclose(by_onnx(path, observation, noise), expected.numpy(), rtol=0, atol=1e-5)


def test_gumbel_noise_draws_actions_as_often_as_the_policy_does():
    model, count = on_policy(Categorical(5)), 40_000
    actor = PlainActor(model, sample=True)
    observation = torch.tensor([[0.3, -1.0, 2.0]])
    _, noise = actor.random_inputs(count)
    drawn = torch.bincount(actor(observation.expand(count, 3), noise), minlength=5) / count
    with torch.no_grad():
        step = TensorDict(observation=observation, batch_size=1)
        probs = model.get_policy_operator().get_dist(step).probs[0]
    assert ((drawn - probs).abs() < 4 * (probs * (1 - probs) / count).sqrt()).all()  # four standard errors


def test_actions_stay_between_their_bounds_and_reach_them(tmp_path):
    model = off_policy(deterministic=True)
    with torch.no_grad():
        model.policy_layer.weight.zero_()
        model.policy_layer.bias.copy_(torch.tensor([50.0, -50.0]))
    path = export_actor(model, tmp_path / "actor.pt2").path
    assert by_torch(path, 1e6 * torch.randn(4, 3)).tolist() == [[3.0, 0.0]] * 4


@pytest.mark.parametrize("k", slow_but((0, 2, 4), range(5)))
def test_an_impala_actor_of_every_separation(k, tmp_path):
    model = of_frames(impala_blocks, (3, 16, 16), k, channels=(4, 8, 8), hidden_size=16)
    frames = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    path = export_actor(model, tmp_path / "actor.pt2").path
    assert (by_torch(path, frames) == own_actions(model, frames)).all()
    assert len(np.unique(by_torch(path, torch.randint(0, 256, (200, 3, 16, 16), dtype=torch.uint8)))) > 1


@pytest.mark.parametrize(
    ("blocks", "shape", "options"),
    [
        (impala_blocks, (3, 16, 16), {"channels": (8, 8, 8), "attention_from": 2, "in_place_skip": True}),
        (nature_blocks, (4, 84, 84), {"hidden_size": 16}),
    ],
)
def test_actors_of_frames_in_onnx(blocks, shape, options, tmp_path):
    model = of_frames(blocks, shape, 2, **options)
    frames = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    path = export_actor(model, tmp_path / "actor.onnx", observations=frames).path
    assert (by_onnx(path, frames) == own_actions(model, frames)).all()


def test_frames_as_floats_by_a_fixed_scale():
    model = of_frames(impala_blocks, (3, 16, 16), 2, channels=(4, 4, 4), hidden_size=16)
    frames = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8)
    scaled = PlainActor(model, observation_scaling=ObservationScaling(0.0, 255.0), observation_dtype=torch.float32)
    assert torch.equal(scaled(frames.float()), PlainActor(model)(frames))


# -------------------------------------------------------------------------------------------------------- the scaling


def test_the_running_statistics_of_a_task_are_in_the_file(tmp_path):
    """The file plays the task itself as the model plays it with the statistics that it was trained with."""
    train = control_env("pendulum", [3], 8, normalize_observation=True)
    train.rollout(30)
    moments = train.observation_statistics
    std = np.sqrt(moments.variance[0] + 1e-8)
    scaling = ObservationScaling(torch.from_numpy(moments.mean[0]), torch.from_numpy(std), 10.0)
    network = separate(mlp_blocks(3, [8, 4]), mlp_blocks(3, [8, 16]), at=0, example=torch.zeros(3))
    model = actor_value(network, train.action_spec, policy_gain=3.0)
    path = export_actor(model, tmp_path / "actor.pt2", observation_scaling=scaling).path

    def from_file(observation: Tensor) -> Tensor:  # (1, 1, 3)
        return torch.from_numpy(by_torch(path, observation[0]))[None]

    scaled = control_env("pendulum", [5], 1, normalize_observation=True, statistics=moments)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = scaled.rollout(40, model.get_policy_operator())
        played = control_env("pendulum", [5], 1).rollout(40, TensorDictModule(from_file, ["observation"], ["action"]))
    torch.testing.assert_close(played["action"], expected["action"], rtol=0, atol=1e-3)
    assert expected["action"].std() > 0.1  # something that differs from step to step was compared
    unscaled = PlainActor(model)(played["observation"])
    assert (unscaled - expected["action"]).abs().max() > 0.1  # and the scaling matters


@pytest.mark.parametrize(
    ("scaling", "says"),
    [
        (ObservationScaling(torch.zeros(2), 1.0), r"mean must be a finite number or tensor of shape \(3,\)"),
        (ObservationScaling(0.0, torch.tensor([1.0, torch.nan, 1.0])), "std must be a finite number"),
        (ObservationScaling(0.0, 0.0), "must have a positive std and clip"),
        (ObservationScaling(0.0, 1.0, -5.0), "must have a positive std and clip"),
    ],
)
def test_a_scaling_that_does_not_fit_is_refused(scaling, says):
    with pytest.raises(ValueError, match=says):
        PlainActor(on_policy(), observation_scaling=scaling)


# ---------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("name", ["ppo, shared layer", "sac, shared layer", "td3"])
def test_no_critic_is_in_the_file(name, suffix, shipped):
    model, path = shipped(name, suffix)
    content = path.read_bytes()
    assert len(critics(model)) >= 4 and np.float32(MARK).tobytes() not in content
    assert layers(model)[0][0, 0].tobytes() in content  # so the actor's numbers can be seen
    assert str(Path.cwd()).encode() not in content and b"decouple/" not in content  # nor where it was made


def test_the_numbers_in_a_file_are_counted(shipped, tmp_path):
    """3 -> 8 -> 4 -> 2: 32 + 36 + 10; a SAC policy's head has 10 more, for the scale, which the mode does not need."""
    held = [int(np.prod(each.dims)) for each in onnx.load(shipped("sac", "onnx")[1]).graph.initializer if each.dims]
    assert sum(held) == 78 + 4  # and the middle and half of the action's range
    assert export_actor(off_policy(), tmp_path / "mode.pt2").metadata["parameters"] == 78
    assert export_actor(off_policy(), tmp_path / "drawn.pt2", sample=True).metadata["parameters"] == 88


def test_a_file_computes_what_numpy_does_and_says_what_it_is(tmp_path):
    model, facts = on_policy(), {"algorithm": "ppo", "run": "runs/one", "actor": [8, 4]}
    report = export_actor(model, tmp_path / "actor.onnx", observation_scaling=SCALING, metadata=facts)
    x = np.array([[0.5, -2.0, 10.0]])  # (1.25 - 1) / 0.5, (-26 + 20) / 3, and 0.5 / 1e-4, clipped
    w1, b1, w2, b2, w3, b3 = layers(model)
    u = np.tanh(np.tanh(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    low, high = np.array([-1.0, 0.0]), np.array([3.0, 0.5])
    action = by_onnx(report.path, torch.tensor([[1.25, -26.0, 0.5]]))
    np.testing.assert_allclose(action, low + (high - low) * (1 + np.tanh(u)) / 2, rtol=0, atol=1e-6)

    saved = onnxruntime.InferenceSession(report.path).get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in saved.items()} == report.metadata
    assert report.bytes == report.path.stat().st_size and report.observations == 256
    expected = {
        "observation": {"shape": ["batch", 3], "dtype": "float32"},
        "action": {"kind": "continuous", "size": 2, "low": [-1.0, 0.0], "high": [3.0, 0.5]},
        "multiply_adds": 3 * 8 + 8 * 4 + 4 * 2,
        "parameters": 78,
        "sample": False,
    }
    assert report.metadata.items() >= {**expected, **facts}.items()
    assert report.metadata["observation_scaling"]["mean"] == [1.0, -20.0, 0.0]
    assert report.metadata["versions"]["torch"] == torch.__version__

    beside = export_actor(model, tmp_path / "new" / "actor.pt2", observation_scaling=SCALING, metadata=facts)
    assert json.loads((tmp_path / "new" / "actor.pt2.json").read_text()) == beside.metadata == report.metadata


@pytest.mark.parametrize("sample", [False, True])
def test_int8_in_onnx_is_close_to_the_model_and_holds_its_weights_in_a_byte(sample, tmp_path):
    network = separate(mlp_blocks(3, [64, 64]), mlp_blocks(3, [8]), at=0, example=torch.zeros(3))
    model, observations = actor_value(network, BOX, policy_gain=1.0), torch.randn(200, 3)
    report = export_actor(model, tmp_path / "actor.onnx", precision="int8", observations=observations, sample=sample)
    assert 1e-4 < report.difference < 0.2 and report.metadata["precision"] == "int8"
    saved = onnxruntime.InferenceSession(report.path).get_modelmeta().custom_metadata_map
    assert json.loads(saved["precision"]) == "int8"
    held = onnx.load(report.path).graph.initializer
    widest = max(held, key=lambda each: int(np.prod(each.dims)))
    assert widest.data_type == onnx.TensorProto.INT8 and int(np.prod(widest.dims)) == 64 * 64


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # as where it is not installed
try:
    import torch
except ImportError:
    pass
else:
    raise SystemExit("torch is here")
import numpy, onnxruntime
recorded = numpy.load(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1])
(action,) = session.run(["action"], {"observation": recorded["observation"]})
assert not any(name.partition(".")[0] in ("torch", "tensordict", "torchrl", "decouple") and sys.modules[name]
               for name in sys.modules)
print(abs(action - recorded["action"]).max(), len(action))
"""


def test_an_onnx_file_runs_where_there_is_no_torch(shipped, tmp_path):
    model, path = shipped("td3", "onnx")
    observation = torch.randn(100, 3)
    np.savez(tmp_path / "recorded.npz", observation=observation.numpy(), action=own_actions(model, observation))
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path), str(tmp_path / "recorded.npz")]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    difference, count = ran.stdout.split()
    assert float(difference) < 1e-5 and int(count) == 100


# --------------------------------------------------------------------------------------------------------- the check


def test_the_check_sees_another_agents_actions():
    for model, other in ((on_policy(), on_policy()), (on_policy(Categorical(5)), on_policy(Categorical(5)))):
        actor = PlainActor(model)
        inputs = actor.random_inputs(50)
        assert difference_from(actor, actor, model, *inputs) < 1e-6
        assert difference_from(actor, PlainActor(other), model, *inputs) > 0.01


def test_a_file_that_fails_the_check_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(decouple.deploy.export, "difference_from", lambda *_: 0.5)
    with pytest.raises(RuntimeError, match=r"actions must be the model's to 0.1; they differ by 0.5"):
        export_actor(on_policy(), tmp_path / "new" / "actor.pt2", tolerance=0.1)
    assert not list(tmp_path.iterdir())


def test_recorded_observations_are_checked_too(tmp_path):
    model, recorded = on_policy(), torch.randn(7, 3)
    assert export_actor(model, tmp_path / "actor.pt2", observations=recorded).observations == 256 + 7
    assert export_actor(model, tmp_path / "a.pt2", observations=recorded, sample=True).observations == 256 + 7
    with pytest.raises(ValueError, match=r"observations must be \(n, 3\) of torch.float32; got \(7, 2\)"):
        export_actor(model, tmp_path / "actor.pt2", observations=recorded[:, :2])


def test_the_model_stays_as_it_was(tmp_path):
    model = on_policy().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    export_actor(model, tmp_path / "actor.pt2")
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_what_cannot_be_exported_is_refused_by_name(tmp_path):
    keyed = separate(
        mlp_blocks(3 + 2, [4]),
        mlp_blocks(3, [4]),
        at=0,
        policy_keys=["extra"],
        example={"observation": torch.zeros(3), "extra": torch.zeros(2)},
    )
    broken = on_policy()
    with torch.no_grad():
        next(broken.module["policy_head"].parameters()).fill_(torch.nan)
    for model, says in (
        (nn.Linear(3, 2), "model must be .*ActorValue.*; got a Linear"),
        (stack([on_policy(), on_policy()]), "unstack"),
        (actor_value(keyed, BOX), r"reads \['extra'\] too"),
        (broken, "must have finite parameters"),
    ):
        with pytest.raises(ValueError, match=says):
            export_actor(model, tmp_path / "actor.pt2")
    with pytest.raises(ValueError, match="sample must be False"):
        export_actor(off_policy(deterministic=True), tmp_path / "actor.pt2", sample=True)
    with pytest.raises(
        ValueError, match=r"path must be a file that ends in one of \['.onnx', '.pt2', '.c', '.html'\]; got '.pth'"
    ):
        export_actor(on_policy(), tmp_path / "actor.pth")
    assert not list(tmp_path.iterdir())


def test_a_critic_that_diverged_does_not_keep_its_actor(tmp_path):
    model = on_policy()
    with torch.no_grad():
        next(model.get_value_head().parameters()).fill_(torch.nan)
    assert export_actor(model, tmp_path / "actor.pt2").difference < 1e-6


# ------------------------------------------------------------------------------------------------------- its latency


def test_latency_has_a_row_for_each_runtime_and_batch_size():
    before = torch.get_num_threads()
    rows = actor_latency(off_policy(), seconds=0.0, batch_sizes=(1, 3), sample=True, observation_scaling=SCALING)
    cases = [(row["runtime"], row["batch"]) for row in rows]
    assert cases == [(runtime, batch) for runtime in ("eager", "exported", "onnx") for batch in (1, 3)]
    assert all(0 < row["median_us"] <= row["p99_us"] and row["calls"] == 20 for row in rows)
    assert torch.get_num_threads() == before


def test_latency_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"runtimes must be of \['eager', 'exported', 'onnx', 'c'\]; got 'jit'"):
        actor_latency(on_policy(), runtimes=["jit"])
    with pytest.raises(ValueError, match=r"batch_sizes must be .*; got"):
        actor_latency(on_policy(), batch_sizes=[0])


# ------------------------------------------------------------------------------------------------- a memory in a file


def recurrent(k: int, spec: TensorSpec = BOX) -> ActorValue:
    """A GRU in the trunk at k = 1, in the policy before an LSTM otherwise."""

    def blocks() -> list[nn.Module]:
        return [gru_block(3, 4), *mlp_blocks(4, [5]), lstm_block(5, 6)]

    return with_biases(actor_value(separate(blocks(), blocks(), at=k, example=torch.zeros(3)), spec, policy_gain=1.0))


@each(actor=[(0, BOX, False), (1, Categorical(5), True), (3, BOX, True)], ending=["onnx", "pt2"])
def test_a_recurrent_actors_file_takes_a_state_and_gives_the_next(tmp_path: Path, actor, ending: str):
    k, spec, sample = actor
    model = recurrent(k, spec)
    report = export_actor(model, tmp_path / f"actor.{ending}", sample=sample)
    assert report.metadata["state"] == {"shape": ["batch", 4 + 2 * 6], "dtype": "float32", "first": "zeros"}
    if ending == "onnx":
        session = onnxruntime.InferenceSession(report.path)
        assert [each.name for each in session.get_inputs()] == ["observation", "state", *["noise"] * sample]
        assert [each.name for each in session.get_outputs()] == ["action", "next_state"]

        def run(*inputs: Tensor) -> list[Tensor]:
            names = [each.name for each in session.get_inputs()]
            return [torch.from_numpy(x) for x in session.run(None, {n: x.numpy() for n, x in zip(names, inputs)})]  # noqa: B905
    else:
        run = torch.export.load(report.path).module()
    policy: Any = model.get_policy_operator()
    state, step = torch.zeros(7, 16), TensorDict({"is_init": torch.ones(7, 1, dtype=torch.bool)}, [7])
    step.update(
        {key: torch.zeros(7, *shape) for part in policy.module for key, shape in getattr(part, "states", {}).items()}
    )
    for _ in range(5):  # an episode of several steps, each with the state that the one before gave
        observation = torch.randn(7, 3)
        noise = [torch.randn(7, 2 if spec is BOX else 5)] * sample
        action, state = run(observation, state, *noise)
        step["observation"] = observation
        with torch.no_grad():
            distribution = policy.get_dist(step)
            if spec is BOX:
                normal = distribution.root_dist
                drawn = normal.loc + (normal.scale * noise[0] if sample else 0)
                wanted = distribution.transforms[0](drawn)
            else:
                wanted = (distribution.logits + noise[0]).argmax(-1)
            policy(step)
        torch.testing.assert_close(action, wanted, rtol=1e-4, atol=1e-5)
        step = TensorDict({**step["next"], "is_init": torch.zeros(7, 1, dtype=torch.bool)}, [7])


def test_a_memory_behind_blocks_that_read_a_pictures_bytes_is_exported(tmp_path: Path):
    def blocks() -> list[nn.Module]:
        return [*impala_blocks((3, 16, 16), (2, 2), 8), gru_block(8, 4)]

    model = with_biases(actor_value(separate(blocks(), blocks(), at=4), Categorical(3), policy_gain=1.0))
    report = export_actor(model, tmp_path / "actor.pt2")
    frames = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    action, state = torch.export.load(report.path).module()(frames, torch.zeros(5, 4))
    assert action.shape == (5,) and state.shape == (5, 4) and state.any()


def test_a_recurrent_file_whose_state_is_another_is_refused_and_latency_is_measured(tmp_path: Path, monkeypatch):
    model = recurrent(1)
    rows = actor_latency(model, runtimes=["eager", "exported", "onnx"], batch_sizes=[2], seconds=0.01, sample=True)
    assert [row["runtime"] for row in rows] == ["eager", "exported", "onnx"]
    actor = PlainActor(model)
    run = lambda *inputs: (actor(*inputs)[0], inputs[1])  # noqa: E731  (the state that came)
    assert difference_from(actor, run, model, *actor.random_inputs(8)) > 0.1
    assert difference_from(actor, actor, model, *actor.random_inputs(8)) < 1e-6
    broken = lambda *inputs: (actor(*inputs)[0] * torch.nan, actor(*inputs)[1])  # noqa: E731
    assert np.isnan(difference_from(actor, broken, model, *actor.random_inputs(8)))


def test_an_actor_with_gates_is_its_policy_alone(tmp_path):
    model = with_biases(actor_value(gated(mlp_blocks(3, [8, 4]), mlp_blocks(3, [8, 4])), BOX, policy_gain=1.0))
    observation = torch.randn(20, 3)
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        wanted = model.get_policy_operator()(TensorDict({"observation": observation}, [20]))["action"]
    torch.testing.assert_close(PlainActor(model)(observation), wanted)
    assert export_actor(model, tmp_path / "actor.pt2").difference < 1e-5


@pytest.mark.parametrize(("low", "high"), [(-1.0, 0.1), (-0.3, 0.7), (1000.0, 1000.001), (-3e38, 1e-3), (-2.0, 2.0)])
def test_rounding_does_not_leave_the_bounds(low, high):
    actor = PlainActor(on_policy(Bounded(low, high, (1,))))
    torch.nn.init.constant_(actor.head.weight, 0.0)
    bounds = torch.tensor([low, high])
    for bias, bound in ((-50.0, bounds[0]), (50.0, bounds[1])):
        torch.nn.init.constant_(actor.head.bias, bias)
        action = actor(torch.zeros(1, 3))
        assert bounds[0] <= action <= bounds[1]
        assert (action - bound).abs() <= 1e-6 * (bounds[1] - bounds[0]) + torch.finfo(torch.float32).eps * bound.abs()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_a_dtype_that_no_actor_reads_is_refused(dtype, tmp_path):
    with pytest.raises(ValueError, match=r"observation_dtype must be torch.float32 or torch.uint8; got"):
        export_actor(on_policy(), tmp_path / "actor.pt2", observation_dtype=dtype)


def test_many_observations_are_compared_in_pieces_and_none_is_left_out():
    actor = PlainActor(model := on_policy())
    observation, sizes = torch.randn(1300, 3), list[int]()

    def wrong(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return actor(x) + (x == observation[1299]).all(-1, keepdim=True)

    assert difference_from(actor, wrong, model, observation[:1299]) < 1e-5
    assert difference_from(actor, wrong, model, observation) > 0.1 and max(sizes) <= 512
