"""A learned separation: gates, their price, and tasks whose right answer is known by construction."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.counting import multiply_adds
from decouple.networks.gating import chosen_separation, gated, gates_of
from decouple.networks.separation import separate
from decouple.networks.stacking import stack, unstack
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.algorithms.ppg import ppg_phases
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.compiled_agents import not_known
from decouple.on_policy.gates import PriceLoss, learn_gates
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.training import train_on_policy
from decouple.runs.settings import changed
from decouple.seeding import SeedNoise
from decouple.studies.separation.experiment import make_model as procgen_model
from decouple.studies.separation.settings import procgen_experiment


class Signs(EnvBase):
    """Episodes of one step. The first of the observation's two signs says which action pays 1.

    Beside it each state pays one of the signs, whatever the action: with `same` the first, else the second. One unit
    can hold one sign. So the policy's unit serves the value too where both need the same sign, and only there.
    """

    def __init__(self, seeds: list[int], *, same: bool, envs: int = 64) -> None:
        batch = torch.Size([len(seeds), envs])
        super().__init__(batch_size=batch)
        self.same, column = same, (*batch, 1)
        self.observation_spec = Composite(observation=Unbounded((*batch, 2)), shape=batch)
        self.action_spec = Categorical(2, shape=batch)
        self.reward_spec = Unbounded(column)
        end = Binary(shape=column, dtype=torch.bool)
        self.done_spec = Composite(done=end, terminated=end.clone(), shape=batch)
        self.noise = SeedNoise(seeds)
        self.shown, self.restored = torch.zeros(*batch, 2), False

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        if self.restored:  # the reset after a resume shows what was shown
            self.restored = False
            return TensorDict(observation=self.shown.clone(), batch_size=self.batch_size)
        drawn = [torch.randint(2, self.shown.shape[1:], generator=own) for own in self.noise.generators]
        self.shown = 2.0 * torch.stack(drawn) - 1
        return TensorDict(observation=self.shown.clone(), batch_size=self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        first, last = self.shown.split(1, -1)
        right = tensordict["action"].unsqueeze(-1) == (first > 0)
        reward = right.float() + (first if self.same else last)
        end = torch.ones_like(right)
        shown = {"observation": self.shown.clone(), "reward": reward, "done": end, "terminated": end.clone()}
        return TensorDict(shown, self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        pass

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"noise": self.noise.state_dict(), "shown": self.shown.clone()}

    def load_state_dict(self, state: Any, *_: Any, **__: Any) -> None:
        self.noise.load_state_dict(state["noise"])
        self.shown, self.restored = state["shown"].clone(), True


def make_model(seed: int, sizes: tuple[int, ...] = (1,)) -> ActorValue:
    torch.manual_seed(seed)
    blocks = (mlp_blocks(2, list(sizes), nn.Tanh) for _ in range(2))
    return actor_value(gated(*blocks), Categorical(2), policy_gain=1.0)


def learned(
    seeds: list[int], *, same: bool, price: float, frames: int, rate: float = 0.01
) -> tuple[Tensor, list[dict[str, float]]]:
    """The gates (S, 1) that PPO ends with, and the rows that it logged."""
    settings = OnPolicySettings(
        total_frames=frames,
        rollout_steps=8,
        gamma=0.0,
        minibatches=4,
        epochs=4,
        learning_rate=0.01,
        clip_value=None,
        value_coeff=1.0,
        gate_prices=[price],
        gate_rate=rate,
        micro_batch=100_000,
    )
    model = stack([make_model(seed) for seed in seeds])
    phases = learn_gates(model, ppo_phases(model, settings), settings)
    rows: list[dict[str, float]] = []
    env = Signs(seeds, same=same)
    train_on_policy(env, model, phases, settings, log=lambda row, _: rows.append(row), seeds=seeds)
    gates = gates_of(model)
    assert gates is not None
    return gates.values().detach(), rows


SEEDS = [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("price", [0.03, 0.1])
@pytest.mark.parametrize("same", [False, True])
def test_gates_separate_where_features_are_disjoint_and_share_where_they_are_the_same(same: bool, price: float):
    """Five seeds of five."""
    gates, rows = learned(SEEDS, same=same, price=price, frames=64 * 8 * 40)
    assert [chosen_separation(gate.tolist()) for gate in gates] == [int(same)] * 5
    assert all(rows[-1][f"loss/critic/seed{seed}"] < 0.02 for seed in SEEDS)  # the value is learned


@pytest.mark.parametrize("same", [False, True])
def test_one_seed_chooses_as_five_do(same: bool):
    gates, rows = learned([1], same=same, price=0.1, frames=64 * 8 * 30)
    assert chosen_separation(gates[0].tolist()) == int(same)
    course = [row["gate/1"] for row in rows]
    assert course[:7] == [0.5] * 7 and course[-1] != 0.5  # held at first, and logged
    assert rows[-1]["loss/price"] == pytest.approx(0.1 * (1 - course[-1]), rel=0.05)


def test_a_high_price_shares_and_no_price_leaves_what_the_value_needs():
    assert learned([1], same=False, price=30.0, frames=64 * 8 * 20)[0].item() > 0.9


def plain_value(model: ActorValue, observation: Tensor) -> Tensor:
    """The value by hand: h_i = g_i trunk_i + (1 - g_i) own_i."""
    gates = gates_of(model)
    assert gates is not None
    trunk = own = observation
    for index, (theirs, ours) in enumerate(zip(model.policy, model.value, strict=True)):
        trunk, own = theirs(trunk), ours(own)
        gate = torch.sigmoid(gates.logits[index] / gates.temperature)
        own = gate * trunk + (1 - gate) * own
    return model.get_value_head().module(own)


def moved(seed: int) -> ActorValue:
    """A model whose two networks and gates have parted."""
    model = make_model(seed, (5, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        gates = gates_of(model)
        assert gates is not None
        gates.temperature.fill_(0.7)
    return model


def test_the_value_is_the_mixture_and_a_stack_gives_each_seeds():
    models, frames = [moved(seed) for seed in (3, 4)], torch.randn(2, 6, 2)
    expected = torch.stack([plain_value(model, own) for model, own in zip(models, frames, strict=True)])
    together = stack(models)
    found = together.get_value_operator()(TensorDict(observation=frames, batch_size=[2, 6]))["state_value"]
    torch.testing.assert_close(found, expected)
    acted = models[0](TensorDict(observation=frames[0], batch_size=[6]))
    torch.testing.assert_close(acted["state_value"], expected[0])
    assert set(acted.keys()) == {"observation", "action", "action_log_prob", "state_value"}
    trained = [make_model(seed, (5, 3)) for seed in (3, 4)]
    unstack(together, trained)
    for one, other in zip(models, trained, strict=True):
        assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_gates_at_one_pass_the_policys_features_and_its_gradients_scaled():
    torch.manual_seed(0)
    network = gated(mlp_blocks(2, [3]), mlp_blocks(2, [3]), value_gradient=0.5)
    network.value.gates.logits.data.fill_(1e4)
    policy, value = network(torch.randn(7, 2))
    torch.testing.assert_close(value, policy)
    of_policy, of_value = (
        torch.autograd.grad(each.sum(), list(network.policy.parameters()), retain_graph=True)
        for each in (policy, value)
    )
    torch.testing.assert_close([0.5 * each for each in of_policy], list(of_value))


def test_the_price_is_the_own_blocks_share_of_multiply_adds():
    network = gated(mlp_blocks(2, [8, 4]), mlp_blocks(2, [8, 4]))
    assert network.block_costs == [16, 32]
    assert multiply_adds(network) == {"trunk": 0, "policy": 48, "value": 48, "total": 96}
    network.value.gates.logits.data.copy_(torch.tensor([100.0, -100.0]))
    price = PriceLoss(network.value.gates, 0.6)(TensorDict(batch_size=[5]))
    assert price["loss_price"].item() == pytest.approx(0.6 * 32 / 48)
    assert (price["gate_1"].item(), price["gate_2"].item()) == (1, 0)


def test_daacs_and_ppgs_phases_train_the_gates_where_they_train_the_value():
    for make, names in ((daac_phases, ["value"]), (ppg_phases, ["policy", "auxiliary"])):
        model = make_model(0)
        settings = OnPolicySettings(gate_rate=0.05)
        phases = learn_gates(model, make(model, settings), settings)
        gates = gates_of(model)
        assert gates is not None
        having = [p.name for p in phases if any(gates.logits is each for each in p.parameters())]
        assert having == names
        rates = {g["lr"] for p in phases for g in p.optimizer.param_groups if g["params"] == [gates.logits]}
        assert rates == {0.05}


def test_a_run_goes_on_with_its_gates_to_the_bit(tmp_path: Path):
    def run(folder: Path, frames: int) -> list[Tensor]:
        settings = OnPolicySettings(
            total_frames=64 * 8 * 4, rollout_steps=8, gamma=0.0, minibatches=2, epochs=1, checkpoint_every=1
        )
        torch.manual_seed(0)
        model = stack([make_model(seed) for seed in (0, 1)])
        phases = learn_gates(model, ppo_phases(model, settings), settings)

        def log(row: dict[str, float], done: int) -> None:
            if done == frames:
                raise KeyboardInterrupt

        env = Signs([0, 1], same=True)
        options: Any = {"seeds": [0, 1], "checkpoint": folder / "checkpoint.pt"}
        try:
            train_on_policy(env, model, phases, settings, log=log, **options)
        except KeyboardInterrupt:
            return []
        return [value.clone() for value in model.state_dict().values()]

    whole = run(tmp_path / "whole", 0)
    run(tmp_path / "cut", 3 * 64 * 8)  # dies before the checkpoint of its third rollout
    again = run(tmp_path / "cut", 0)
    assert len(again) == len(whole) and all(map(torch.equal, again, whole))


def test_what_cannot_be_gated_is_refused_by_name():
    with pytest.raises(ValueError, match=r"value_blocks must give the shapes of policy_blocks.*block 1"):
        gated(mlp_blocks(2, [3, 4]), mlp_blocks(2, [3, 5]))
    with pytest.raises(ValueError, match="policy_blocks must be blocks without a memory"):
        gated([], [])
    stem = [[nn.Sequential(nn.Flatten(-2), nn.Linear(4, 3))] for _ in range(2)]
    with pytest.raises(ValueError, match="example must be given"):
        gated(*stem)
    assert gated(*stem, example=torch.zeros(2, 2)).block_costs == [12]
    model = make_model(0)
    with pytest.raises(ValueError, match="gate_prices must be one price"):
        settings = OnPolicySettings(gate_prices=[0.1, 0.2])
        learn_gates(model, ppo_phases(model, settings), settings)
    with pytest.raises(ValueError, match="gate_prices must be different numbers"):
        OnPolicySettings(gate_prices=[])


def test_a_model_without_gates_keeps_its_phases():
    model = actor_value(separate(mlp_blocks(2, [3]), mlp_blocks(2, [3]), 1), Bounded(-1.0, 1.0, (1,)))
    phases = ppo_phases(model, OnPolicySettings())
    assert learn_gates(model, phases, OnPolicySettings()) == phases and not model.gated and model.shares


def test_procgens_networks_have_four_gates_and_train_them():
    config = procgen_experiment(separation="learned", algorithm="daac", micro_batch=2, precision="fp32")
    model = procgen_model(config, SimpleNamespace(action_spec=Categorical(15)))  # pyright: ignore[reportArgumentType]
    phases = learn_gates(model, daac_phases(model, config.learning), config.learning)
    frames = TensorDict(observation=torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8), batch_size=[2])
    frames["state_value"] = model.get_value_operator()(frames.clone())["state_value"].detach()
    frames["value_target"] = torch.randn(2, 1)
    (value,) = [phase for phase in phases if phase.name == "value"]
    value.epochs, value.minibatches = 1, 1
    value.anneal(0.5)
    found = value.run(frames, torch.Generator(), micro_batch=2)
    gates = gates_of(model)
    assert gates is not None and gates.logits.shape == (4,) and (gates.logits != 0).all()
    assert {f"gate/{number}" for number in (1, 2, 3, 4)} <= found.keys()
    with pytest.raises(ValueError, match="attention must be false with separation=learned"):
        procgen_model(changed(config, attention=True), SimpleNamespace(action_spec=Categorical(15)))  # pyright: ignore


def test_kernels_leave_models_with_gates_alone():
    assert "gates" in (not_known(stack([make_model(0)])) or "")
