"""Several seeds at once: each agent becomes what it becomes alone; its targets, updates, metrics and checkpoints."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pairwise import each
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.data import Binary, Bounded, Categorical, Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate
from decouple.networks.stacking import stack, unstack
from decouple.on_policy.algorithms.daac import daac_phases
from decouple.on_policy.algorithms.idaac import idaac_phases
from decouple.on_policy.algorithms.ppo import ppo_phases
from decouple.on_policy.losses import ValueLoss
from decouple.on_policy.phases import Phase, RolloutPhase, run_phase
from decouple.on_policy.rollouts import SeededPolicy, add_next_values, normalise_advantages
from decouple.on_policy.settings import OnPolicySettings
from decouple.on_policy.training import train_on_policy
from decouple.seeding import SeedNoise

# Raw rewards at a clip of 0.2, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:clip_value clips most of a rollout's values")

SEEDS = [3, 5, 12]
N, T, SIZE = 4, 12, 2
SPECS: dict[str, TensorSpec] = {
    "continuous": Bounded(-2.0, 1.0, shape=(SIZE,), dtype=torch.float64),
    "discrete": Categorical(3),
    "one-hot": OneHot(3),
}


class Drift(EnvBase):
    """Points that drift with each seed's own noise and are paid for staying at 0; float64.

    Episodes last 3 to 7 steps, a time of each seed's and environment's own; odd environments run out of time, even ones
    terminate. All of its state is in its `state_dict`.
    """

    def __init__(self, seeds: list[int], kind: str = "continuous", envs: int = N, shortest: int = 3) -> None:
        batch = torch.Size([len(seeds), envs])
        super().__init__(batch_size=batch)
        self.kind, column = kind, (*batch, 1)
        self.observation_spec = Composite(
            observation=Unbounded((*batch, SIZE + 1), dtype=torch.float64),
            episode_reward=Unbounded(column, dtype=torch.float64),
            step_count=Unbounded(column, dtype=torch.int64),
            shape=batch,
        )
        self.action_spec = SPECS[kind].expand(*batch, *SPECS[kind].shape)
        self.reward_spec = Unbounded(column, dtype=torch.float64)
        end = Binary(shape=column, dtype=torch.bool)
        self.done_spec = Composite(done=end, terminated=end.clone(), truncated=end.clone(), shape=batch)
        number = torch.tensor(seeds)[:, None, None] * 2 + torch.arange(envs)[:, None]  # (S, N, 1)
        self.lengths = shortest + number % 5
        self.times_out = (torch.arange(envs) % 2 == 1)[:, None].expand(column)
        self.noise = SeedNoise([seed + 1000 for seed in seeds])
        self.position = torch.zeros(*batch, SIZE, dtype=torch.float64)
        self.step_, self.total = torch.zeros(column, dtype=torch.int64), torch.zeros(column, dtype=torch.float64)
        self.restored = False

    def frame(self) -> dict[str, Tensor]:
        observation = torch.cat([self.position, self.step_ / 10], -1)  # (S, N, SIZE + 1)
        return {"observation": observation, "episode_reward": self.total.clone(), "step_count": self.step_.clone()}

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        which = None if tensordict is None else tensordict.get("_reset", None)
        if which is None:
            which = torch.full_like(self.times_out, not self.restored)
        self.restored = False
        self.position = self.position.masked_fill(which, 0.5)
        self.step_, self.total = self.step_.masked_fill(which, 0), self.total.masked_fill(which, 0)
        return TensorDict(self.frame(), self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = tensordict["action"]
        if self.kind == "one-hot":
            action = action.long().argmax(-1)
        push = action if self.kind == "continuous" else (action - 1.0).unsqueeze(-1)
        self.position = 0.8 * self.position + 0.3 * push + 0.2 * self.noise.normal(self.batch_size[1], SIZE).double()
        self.step_ = self.step_ + 1
        reward = -self.position.square().sum(-1, keepdim=True)
        self.total = self.total + reward
        end = self.step_ >= self.lengths
        ends = {"done": end, "terminated": end & ~self.times_out, "truncated": end & self.times_out}
        return TensorDict({**self.frame(), "reward": reward, **ends}, self.batch_size)

    def state_dict(self, **_: Any) -> dict[str, Any]:
        return {
            "position": self.position.clone(),
            "step": self.step_.clone(),
            "total": self.total.clone(),
            "noise": self.noise.state_dict(),
        }

    def load_state_dict(self, state_dict: Any, **_: Any) -> None:
        self.position, self.step_, self.total = (state_dict[key].clone() for key in ("position", "step", "total"))
        self.noise.load_state_dict(state_dict["noise"])
        self.restored = True

    def _set_seed(self, seed: int | None) -> None:
        pass


def make_model(seed: int, kind: str = "continuous", k: int = 0) -> ActorValue:
    torch.manual_seed(seed)
    sizes = [8, 6]
    network = separate(mlp_blocks(SIZE + 1, sizes), mlp_blocks(SIZE + 1, sizes), at=k)
    return actor_value(network, SPECS[kind], policy_gain=1.0).double()


def make_settings(**changes: Any) -> OnPolicySettings:
    small = {"total_frames": 3 * N * T, "rollout_steps": T, "minibatches": 3, "epochs": 2, "micro_batch": 1000}
    return OnPolicySettings(**{**small, "learning_rate": 0.02, "gamma": 0.9, **changes})


def train(
    models: list[ActorValue], seeds: list[int], settings: OnPolicySettings, kind: str = "continuous", **options: Any
) -> tuple[list[ActorValue], list[dict[str, float]]]:
    """PPO of all at once; the models trained, as copies, and the rows logged."""
    together, trained = stack(models), copy.deepcopy(models)
    make_phases = options.pop("make_phases", ppo_phases)
    rows: list[dict[str, float]] = []
    log = lambda row, frames: rows.append({**row, "frames": frames})  # noqa: E731
    env = options.pop("env", None) or Drift(seeds, kind)
    train_on_policy(env, together, make_phases(together, settings), settings, log=log, seeds=seeds, **options)
    unstack(together, trained)
    return trained, rows


def parameters_of(module: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in module.parameters()]


def assert_close(actual: nn.Module, expected: nn.Module) -> None:
    for a, e in zip(parameters_of(actual), parameters_of(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-7, atol=1e-9)


def keep_rollouts(phase: Phase) -> list[TensorDictBase]:
    kept: list[TensorDictBase] = []
    phase.prepare = lambda batch: kept.append(batch.clone())
    return kept


# ------------------------------------------------------------------------------------------- together and alone


@pytest.mark.parametrize(("kind", "k"), [("continuous", 0), ("continuous", 1), ("discrete", 2), ("one-hot", 0)])
def test_each_of_three_agents_trained_at_once_becomes_what_it_becomes_alone(kind: str, k: int):
    models = [make_model(seed, kind, k) for seed in SEEDS]
    settings = make_settings(micro_batch=7)  # 16 frames as 7 + 7 + 2
    together, rows = train(models, SEEDS, settings, kind)
    for index, seed in enumerate(SEEDS):
        (alone,), own = train([models[index]], [seed], settings, kind)
        assert_close(together[index], alone)
        moved = zip(parameters_of(alone), parameters_of(models[index]), strict=True)
        assert max((a - b).abs().max() for a, b in moved) > 0.01
        for row, of_one in zip(rows, own, strict=True):
            names = [name for name in of_one if f"{name}/seed{seed}" in row]
            assert len(names) >= 8 and not any("/seed" in name for name in of_one)
            each = [row[f"{name}/seed{seed}"] for name in names]
            assert each == pytest.approx([of_one[name] for name in names], rel=1e-4)
        assert max(row["grad_norm/joint"] for row in own) > 0.5  # clipping was at work
        assert all(row["train/episodes"] > 0 for row in own)
    assert (k > 0) == any(name.startswith("cut/joint_cosine/seed") for name in rows[0])


@each(make_phases=[daac_phases, idaac_phases], model=[("continuous", 0), ("one-hot", 1)])
def test_daac_and_idaac_agents_trained_at_once_become_what_they_become_alone(make_phases: Any, model: tuple[str, int]):
    """Also their advantage heads and classifiers, which the phases make, and the partners, which the seeds draw."""
    kind, k = model
    models, found = [make_model(seed, kind, k) for seed in SEEDS], []
    settings = make_settings(order_coeff=0.5)
    for seeds in (SEEDS, *([seed] for seed in SEEDS)):
        torch.manual_seed(len(found))
        made = partial(make_phases, seeds=seeds)
        own = [models[SEEDS.index(seed)] for seed in seeds]
        found.append(train(own, seeds, settings, kind, make_phases=made))
    (together, rows), *apart = found
    for index, ((alone,), own) in enumerate(apart):
        assert_close(together[index], alone)
        names = [name for name in own[-1] if name.startswith("loss/")]
        assert {"loss/advantage", "loss/critic"} | ({"loss/order"} if make_phases is idaac_phases else set()) <= {
            *names
        }
        each = [rows[-1][f"{name}/seed{SEEDS[index]}"] for name in names]
        assert each == pytest.approx([own[-1][name] for name in names], rel=1e-6)


@pytest.mark.parametrize("make_phases", [daac_phases, idaac_phases])
def test_on_the_same_frames_a_stacked_daac_or_idaac_agent_learns_what_an_unstacked_one_learns(make_phases: Any):
    """With the same advantage head, and one partner for all frames, whatever draws them."""
    model, settings = make_model(3, "discrete", 1), make_settings(minibatches=1, order_coeff=0.5)
    stacked, alone = stack([model]), copy.deepcopy(model)
    own, theirs = make_phases(stacked, settings, [3]), make_phases(alone, settings)
    frames, noise = 20, SeedNoise([1])
    rollout = TensorDict({"observation": noise.normal(frames, SIZE + 1).double()}, (1, frames))
    SeededPolicy(stacked, noise)(rollout)
    for key in ("advantage", "value_target"):
        rollout[key] = noise.normal(frames, 1).double()
    rollout["step_count"] = torch.arange(frames).view(1, frames, 1)
    rollout["level_seed"] = torch.arange(frames).view(1, frames, 1)  # each frame is its own partner
    _copy_heads(own[0], theirs[0])
    for phase, of_torch in zip(own, theirs, strict=True):
        expected = run_phase(of_torch, rollout[0], torch.Generator(), micro_batch=1000)
        found = run_phase(phase, rollout, SeedNoise([3]), micro_batch=1000)
        names = [name for name in found if name.startswith(("loss/", "grad_norm/", "order/", "cut/"))]
        assert [float(found[name]) for name in names] == pytest.approx([expected[name] for name in names])
    (trained,) = trained_of(stacked, [model])
    assert_close(trained, alone)


def _copy_heads(phase: Phase, to: Phase) -> None:
    """Copy the stacked phase's own modules, of one agent, into those of an unstacked phase."""
    stacked = [*phase.losses, *(phase.adversary.losses if phase.adversary else [])]
    alone = [*to.losses, *(to.adversary.losses if to.adversary else [])]
    with torch.no_grad():
        for own, other in zip(stacked, alone, strict=True):
            for one, two in zip(own.parameters(), other.parameters(), strict=True):
                two.copy_(one[0].T if one[0].T.shape == two.shape else one[0].reshape(two.shape))


def trained_of(stacked: ActorValue, models: list[ActorValue]) -> list[ActorValue]:
    trained = copy.deepcopy(models)
    unstack(stacked, trained)
    return trained


def test_a_task_without_levels_is_one_level():
    """Partners come from all of an agent's frames, by its own random numbers, and none from another agent's."""
    models, settings = [make_model(seed) for seed in SEEDS], make_settings(total_frames=N * T)
    together = stack(models)
    phases = idaac_phases(together, settings, SEEDS)
    train_on_policy(Drift(SEEDS), together, phases, settings, log=lambda *_: None, seeds=SEEDS)
    rollout = TensorDict({"observation": torch.arange(3 * 40.0).view(3, 40, 1)}, (3, 40))
    rollout["step_count"] = torch.arange(40).expand(3, 40).unsqueeze(-1)
    draw = phases[0].draw
    assert draw is not None
    partners = []
    for shuffle in (SeedNoise(SEEDS), SeedNoise(SEEDS)):
        draw(rollout, shuffle)
        drawn = rollout["partner", "observation"].squeeze(-1).long()  # (3, 40)
        assert torch.equal(drawn // 40, torch.arange(3).unsqueeze(1).expand(3, 40))
        assert all(len(own.unique()) > 15 for own in drawn) and not torch.equal(drawn[0], drawn[1] - 40)
        assert torch.equal(rollout["partner", "step_count"].squeeze(-1), drawn % 40)
        partners.append(drawn)
    assert torch.equal(*partners)


def test_a_clip_that_one_seeds_values_are_beyond_is_told_with_the_seed():
    """Of the second seed alone returns are large: its values move by more than the clip, the others' do not."""

    class Paid(Drift):
        def _step(self, tensordict: TensorDictBase) -> TensorDict:
            step = super()._step(tensordict)
            return step.set("reward", step["reward"] * torch.tensor([0.0, 1e4, 0.0])[:, None, None])

    models, settings = [make_model(seed) for seed in SEEDS], make_settings(clip_value=0.01, total_frames=5 * N * T)
    with torch.no_grad():
        for model in models:
            model.module["value_head"].module.weight.zero_()
    with pytest.warns(UserWarning, match=r"clip_value clips most of a rollout's values \(\d+% of seed 5\)"):
        _, rows = train(models, SEEDS, settings, env=Paid(SEEDS))
    shares = [rows[0][f"value/clip_fraction/seed{seed}"] for seed in SEEDS]
    assert shares[1] > 0.5 > max(shares[0], shares[2])
    assert rows[0]["value/clip_fraction"] == pytest.approx(sum(shares) / 3)


def test_the_global_random_numbers_play_no_part():
    models, found = [make_model(seed) for seed in SEEDS], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(train(models, SEEDS, make_settings())[0])
    for first, second in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(parameters_of(first), parameters_of(second), strict=True))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_on_the_same_frames_a_stacked_agent_learns_what_one_that_is_not_stacked_learns(kind: str):
    models = [make_model(seed, kind, k=1) for seed in SEEDS]
    # TorchRL samples the entropy of the unstacked policy's normal: only without it the two must agree there.
    settings = make_settings(minibatches=1, entropy_coeff=0.1 if kind == "discrete" else 0.0, total_frames=N * T)
    together = stack(models)
    phases = ppo_phases(together, settings)
    kept, trained = keep_rollouts(phases[0]), copy.deepcopy(models)
    train_on_policy(Drift(SEEDS, kind), together, phases, settings, log=lambda *_: None, seeds=SEEDS)
    unstack(together, trained)
    assert kept[0].batch_size == (len(SEEDS), N * T)
    for index, alone in enumerate(copy.deepcopy(models)):
        (phase,) = ppo_phases(alone, settings)
        row = run_phase(phase, kept[0][index], torch.Generator(), micro_batch=1000)
        assert_close(trained[index], alone)
        assert row["grad_norm/joint"] > 0.5


def test_actions_are_those_of_the_policy_at_the_noise_of_each_seed():
    models, settings = [make_model(seed) for seed in SEEDS], make_settings(total_frames=N * T, learning_rate=1e-30)
    together = stack(models)
    phases = ppo_phases(together, settings)
    kept = keep_rollouts(phases[0])
    train_on_policy(Drift(SEEDS), together, phases, settings, log=lambda *_: None, seeds=SEEDS)
    for index, seed in enumerate(SEEDS):
        frames, noise = kept[0][index].reshape(N, T), SeedNoise([seed])
        for step in range(T):
            features = models[index].module["policy"].module(frames["observation"][:, step])
            loc, scale = models[index].module["policy_head"][0].module(features)
            pushed = torch.tanh(loc + scale * noise.normal(N, SIZE)[0].double())
            torch.testing.assert_close(frames["action"][:, step], -0.5 + 1.5 * pushed)  # between -2 and 1


# --------------------------------------------------------------------------------------------- targets and metrics


def test_next_values_and_advantages_of_each_seed_are_its_own():
    models = [make_model(seed) for seed in SEEDS]
    rollout = Drift(SEEDS).rollout(T, break_when_any_done=False)  # (S, N, T)
    add_values(rollout, stack(models))
    alone = [rollout[index].clone() for index in range(len(SEEDS))]
    add_next_values(rollout, stack(models).get_value_operator())
    cut_off = rollout["next", "truncated"]
    per_seed = cut_off.flatten(1).sum(1)
    assert per_seed.min() > 0 and len(per_seed.unique()) > 1  # time-outs, not at the same frames
    for index, own in enumerate(alone):
        value = models[index].get_value_operator()
        add_next_values(own, value)
        torch.testing.assert_close(rollout["next", "state_value"][index], own["next", "state_value"])
        # A time-out is followed by the value of the frame it cut off, not by that of the next episode's first.
        frames = own["next"][own["next", "truncated"].squeeze(-1)]
        torch.testing.assert_close(value(frames.select("observation"))["state_value"], frames["state_value"])


def add_values(rollout: TensorDictBase, model: ActorValue) -> None:
    observation = rollout["observation"]
    rollout["state_value"] = model.get_value_operator()(TensorDict(observation=observation))["state_value"].detach()


def test_advantages_are_normalised_over_each_seeds_frames():
    advantage = torch.tensor([[[1.0, 3.0]], [[10.0, 30.0]], [[5.0, 5.0]]]).unsqueeze(-1)  # (3, 1, 2, 1)
    rollout = TensorDict({"advantage": advantage}, [3, 1, 2])
    normalise_advantages(rollout)
    half = 0.5**0.5  # (1 - 2) / sqrt 2
    expected = torch.tensor([[[-half, half]], [[-half, half]], [[0.0, 0.0]]]).unsqueeze(-1)
    torch.testing.assert_close(rollout["advantage"], expected)


def test_what_is_logged_of_each_seed_and_nothing_where_no_episode_ended():
    models = [make_model(seed) for seed in SEEDS]
    _, (row,) = train(models, SEEDS, make_settings(total_frames=N * T))
    names = ("train/episode_return", "train/episode_length", "value/explained_variance", "loss/critic")
    for name in names:
        each = [row[f"{name}/seed{seed}"] for seed in SEEDS]
        assert row[name] == pytest.approx(sum(each) / len(each))
        assert len(set(each)) == len(each)
    assert row["frames"] == N * T  # of one agent
    _, (row,) = train(models, SEEDS, make_settings(total_frames=N * T), env=Drift(SEEDS, shortest=T + 1))
    assert row["train/episodes/seed3"] == 0
    assert not any(name.startswith(("train/episode_return", "train/episode_length")) for name in row)


def test_returns_and_value_losses_logged_are_those_of_the_rollout():
    models = [make_model(seed) for seed in SEEDS]
    settings = make_settings(total_frames=N * T, minibatches=1, epochs=1, value_coeff=2.0)
    together = stack(models)
    phases, rows = ppo_phases(together, settings), []
    kept = keep_rollouts(phases[0])
    env = Drift(SEEDS)
    log = lambda row, _: rows.append(row)  # noqa: E731
    train_on_policy(env, together, phases, settings, log=log, seeds=SEEDS)
    for index, seed in enumerate(SEEDS):
        batch = kept[0][index]
        error = batch["value_target"] - batch["state_value"]
        # The first values are those acted with: unclipped, and the squared error is that of the rollout.
        assert rows[0][f"loss/critic/seed{seed}"] == pytest.approx(2 * error.square().mean().item())
        lengths = env.lengths[index].flatten()
        ended = [length.item() for length in lengths for _ in range(T // length)]
        assert rows[0][f"train/episodes/seed{seed}"] == len(ended)
        assert rows[0][f"train/episode_length/seed{seed}"] == pytest.approx(sum(ended) / len(ended))


# --------------------------------------------------------------------------------------------------------- resuming


def test_a_run_that_goes_on_from_its_checkpoint_equals_one_that_was_never_stopped(tmp_path: Path):
    models = [make_model(seed) for seed in SEEDS]
    whole, rows = train(models, SEEDS, make_settings(total_frames=4 * N * T))
    path, resumed = tmp_path / "checkpoint.pt", []
    for iterations in (2, 4):
        settings = make_settings(total_frames=iterations * N * T)
        torch.manual_seed(iterations)
        stopped, found = train(models, SEEDS, settings, checkpoint=path)
        resumed += found
    for a, b in zip(whole, stopped, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(parameters_of(a), parameters_of(b), strict=True))
    clockless = [{name: v for name, v in row.items() if not name.startswith("time/")} for row in [*rows, *resumed]]
    assert clockless[:4] == clockless[4:]


# ---------------------------------------------------------------------------------------------------------- refusals


def test_seeds_model_and_environment_must_be_of_equally_many_agents():
    models, settings = [make_model(seed) for seed in SEEDS], make_settings()
    stacked = stack(models)

    def go(env: EnvBase, model: ActorValue, seeds: list[int] | None) -> None:
        train_on_policy(env, model, [], settings, log=print, seeds=seeds)

    env = Drift(SEEDS)
    with pytest.raises(ValueError, match=r"env must have one batch axis \(N,\); got batch_size \(3, 4\)"):
        go(env, stacked, None)
    with pytest.raises(ValueError, match=r"seeds must be 3 different integers, .*; got \[1, 2\]"):
        go(env, stacked, [1, 2])
    with pytest.raises(ValueError, match=r"seeds must be 3 different integers, .*; got \[1, 2, 2\]"):
        go(env, stacked, [1, 2, 2])
    with pytest.raises(ValueError, match=r"seeds must be None without a stack; got \[1\]"):
        go(env, models[0], [1])
    with pytest.raises(ValueError, match=r"env must have the batch axes \(S, N\) with S = 3 seeds; got .* \(2, 4\)"):
        go(Drift(SEEDS[:2]), stacked, SEEDS)


@pytest.mark.parametrize("make_phases", [daac_phases, idaac_phases])
def test_daac_and_idaac_take_a_seed_for_each_model_of_a_stack(make_phases: Any):
    stacked, settings = stack([make_model(seed) for seed in (0, 1)]), make_settings()
    with pytest.raises(ValueError, match="seeds must be 2 integers, one for each model of the stack; got None"):
        make_phases(stacked, settings)
    with pytest.raises(ValueError, match=r"seeds must be 2 different integers, .*; got \[4, 4\]"):
        make_phases(stacked, settings, [4, 4])
    with pytest.raises(ValueError, match=r"seeds must be None without a stack; got \[4\]"):
        make_phases(make_model(0), settings, [4])


def test_a_loss_that_has_averaged_over_the_seeds_is_refused():
    def make_phases(model: ActorValue, settings: OnPolicySettings) -> list[RolloutPhase]:
        features = model.get_features(["value_hidden"])
        loss = ValueLoss(model.get_value_head())
        return [Phase(loss, torch.optim.Adam(model.parameters()), features=features)]

    with pytest.raises(ValueError, match=r"loss must keep its samples apart with 3 seeds.*loss_critic.*got \(\)"):
        train([make_model(seed) for seed in SEEDS], SEEDS, make_settings(), make_phases=make_phases)
