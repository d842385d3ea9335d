"""PPG, DCPG, DDCPG and DNA: whole rollouts against plain torch, kept rollouts, what a phase may need of the past."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import test_on_policy_seeds as of_seeds
import torch
from pairwise import each
from tensordict import TensorDict, TensorDictBase
from test_on_policy_training import (
    ACTIONS,
    DEPTH,
    N,
    PlainNetwork,
    T,
    assert_close,
    corridor,
    keep_rollouts,
    make_model,
    make_settings,
    parameters_of,
    plain_adam,
    policy_part,
    train,
    watching,
)
from torch import Tensor, distributions, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torchrl.data import Categorical

from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import PARTS, scaled_cuts, separate
from decouple.networks.stacking import stack
from decouple.on_policy.algorithms import ALGORITHMS
from decouple.on_policy.algorithms.dcpg import dcpg_phases
from decouple.on_policy.algorithms.ddcpg import ddcpg_phases
from decouple.on_policy.algorithms.dna import dna_phases
from decouple.on_policy.algorithms.ppg import ppg_phases
from decouple.on_policy.dynamics import DynamicsDiscriminator
from decouple.on_policy.kept import KeptRollouts, kept_bytes
from decouple.on_policy.phases import Phase
from decouple.on_policy.phasic_losses import Before, CloneLoss
from decouple.on_policy.training import train_on_policy
from decouple.runs.checkpoint import CheckpointError

SHORT: dict[str, Any] = {"auxiliary_every": 2, "auxiliary_epochs": 3, "auxiliary_minibatches": 1, "policy_epochs": 2}
DNA: dict[str, Any] = {"dna_epochs": [2, 1, 3], "dna_minibatches": [2, 4, 2], "dna_lambda": 0.6, "gae_lambda": 0.9}


# --------------------------------------------------------------------------------- whole rollouts, in plain torch


class Plain(PlainNetwork):
    """A copy of a model's layers with a value head on the policy's features, run by hand in float64."""

    def __init__(self, model: ActorValue, head: nn.Module | None):
        super().__init__(model)
        self.head: Any = copy.deepcopy(head)
        self.shuffle = torch.Generator()

    def of(self, *names: str) -> list[nn.Parameter]:
        return [parameter for name in names for parameter in getattr(self, name).parameters()]

    def logits(self, observation: Tensor) -> Tensor:
        return self.policy_head(self.policy_hidden(observation))

    def epochs(self, batch: TensorDictBase, epochs: int, parts: int) -> list[TensorDictBase]:
        orders = [torch.randperm(len(batch), generator=self.shuffle) for _ in range(epochs)]
        return [batch[own] for order in orders for own in order.tensor_split(parts)]


def step(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter], limit: float) -> None:
    gradients = torch.autograd.grad(loss, parameters)
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient * min(1.0, limit / (norm + 1e-6))
    optimizer.step()


def squared(value: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (value - target).square().mean()


def divergence(old: Tensor, new: Tensor) -> Tensor:
    kinds = [distributions.Categorical(logits=logits) for logits in (old, new)]
    return distributions.kl_divergence(*kinds).mean()


def discriminator_of(auxiliary: Phase) -> dict[str, Tensor]:
    """The parameters of DDCPG's discriminator by their names."""
    found: Any = auxiliary.losses[0].discriminator_network_params["module"]
    return {".".join(key): value for key, value in found.items(True, True)}


def keep_drawn(phase: Phase) -> list[TensorDictBase]:
    """The rollouts with what the phase has drawn for them."""
    kept: list[TensorDictBase] = []
    draw = phase.draw

    def keep(batch: TensorDictBase, shuffle: Any) -> None:
        if draw:
            draw(batch, shuffle)
        kept.append(batch.clone())

    phase.draw = keep
    return kept


def plain_dynamics(plain: Plain, observations: Tensor, part: TensorDictBase) -> Tensor:
    """The mean over frames of -log p(real) - log (1 - p(other action)) / 2 - log (1 - p(other next state))."""

    def p(action: Tensor, row: Tensor) -> Tensor:
        z, following = (plain.policy_hidden(o) for o in (part["observation"], observations[row]))
        one_hot = nn.functional.one_hot(action, ACTIONS)
        layers = plain.discriminator.layers
        x = torch.cat([z, one_hot, following], -1)
        for layer in (layers[0], layers[2]):
            x = (x @ layer.weight.T + layer.bias).clamp_min(0)
        return torch.sigmoid(x @ layers[4].weight.T + layers[4].bias).squeeze(-1)

    row, other_row = part["rows"].unbind(-1)
    loss = -p(part["action"], row).log()
    loss = loss - (1 - p(part["other_action"], row)).log() / 2 * (part["action"] != part["other_action"])
    loss = loss - (1 - p(part["action"], other_row)).log()
    return (loss * part["follows"].squeeze(-1)).mean()


@pytest.mark.parametrize("k", [0, 2, DEPTH])
@pytest.mark.parametrize("algorithm", ["ppg", "ppg delayed", "dcpg", "ddcpg"])
def test_two_rollouts_and_an_auxiliary_phase_equal_plain_torch(k: int, algorithm: str):
    torch.manual_seed(1)
    model = make_model(k)
    name, _, delayed = algorithm.partition(" ")
    delayed, clipped, headed = bool(delayed) or name != "ppg", name != "ppg", name == "ppg"
    told = name == "ddcpg"
    settings = make_settings(
        **SHORT,
        **{"total_frames": 2 * N * T, "delayed_value": delayed, "clone_coeff": 0.7, "learning_rate": 0.02},
        **{"dynamics_coeff": 0.6, "dynamics_width": 5},
        micro_batch=7,
    )
    torch.manual_seed(2)
    phases = ALGORITHMS[name](model, settings)
    policy, auxiliary = phases
    head: Any = auxiliary.losses[0].value_network_params if headed else None
    layer = nn.Linear(model.policy_size, 1).double()
    if head is not None:
        layer.load_state_dict({key: head["module", key].data for key in ("weight", "bias")})
    plain = Plain(model, layer)
    discriminator: Any = DynamicsDiscriminator(model.policy_size, ACTIONS, 5).double()
    if told:
        parts = discriminator_of(auxiliary)
        discriminator.load_state_dict({key: value.data.clone() for key, value in parts.items()})
    plain.discriminator = discriminator
    rollouts, past, drawn = keep_rollouts(policy), keep_rollouts(auxiliary), keep_drawn(auxiliary)
    torch.manual_seed(2)
    rows = train(model, phases, settings)
    assert len(rollouts) == 2 and len(past) == 1 and len(past[0]) == 2 * N * T
    still = name == "dcpg" and k == 0  # nothing moves the policy in the auxiliary phase
    assert "loss/clone" not in rows[0] and ("loss/clone" in rows[1]) == (not still)
    assert (past[0]["value_target"] == torch.cat([batch["value_target"] for batch in rollouts])).all()

    plain.shuffle.manual_seed(2)
    everything = plain.of("trunk", "policy", "value", "policy_head", "value_head")
    of_policy = plain.of("policy", "policy_head")
    limit = 0.5 if clipped else math.inf
    first = plain_adam(of_policy if delayed and k == 0 else everything, 0.02)
    for batch in rollouts:
        for part in plain.epochs(batch, 2, 2):
            target = part["state_value" if delayed else "value_target"]
            loss = policy_part(plain.logits(part["observation"]), part)
            loss = loss + squared(plain.values(part["observation"]), target)
            step(first, loss, of_policy if delayed and k == 0 else everything, limit)
    frames = TensorDict(
        observation=torch.cat([batch["observation"] for batch in rollouts]),
        target=torch.cat([batch["value_target"] for batch in rollouts]),
        batch_size=[2 * N * T],
    )
    frames["old"] = plain.logits(frames["observation"]).detach()
    if told:
        frames.update(drawn[0].select("action", "other_action", "follows", "rows"))
        for _ in range(2):  # what drew them
            torch.randint(2**62, (len(frames),), generator=plain.shuffle)
    further = plain.of("head") if headed else plain.of("discriminator") if told else []
    everything = plain.of("value", "value_head") if still else everything + further
    second = plain_adam(everything, 0.02)
    for part in plain.epochs(frames, 3, 2):
        observation = part["observation"]
        loss = squared(plain.values(observation), part["target"])
        if not still:
            loss = loss + 0.7 * divergence(part["old"], plain.logits(observation))
        if headed:
            loss = loss + squared(plain.head(plain.policy_hidden(observation)), part["target"])
        if told:
            loss = loss + 0.6 * plain_dynamics(plain, frames["observation"], part)
        step(second, loss, everything, limit)

    layers = [model.trunk, model.policy, model.value]
    assert_close(parameters_of(*layers), [p.detach() for p in plain.of("trunk", "policy", "value")])
    heads = [model.get_policy_head(), model.get_value_head()]
    assert_close(parameters_of(*heads), [p.detach() for p in plain.of("policy_head", "value_head")])
    if head is not None:
        assert_close(
            [head["module", key].detach() for key in ("weight", "bias")], [p.detach() for p in plain.of("head")]
        )
    if told:
        learned = discriminator_of(auxiliary)
        names, expected = zip(*discriminator.named_parameters(), strict=True)
        assert_close([learned[name].detach() for name in names], [p.detach() for p in expected])


@pytest.mark.parametrize("k", [0, 2, DEPTH])
@pytest.mark.parametrize("distance", ["kl", "logits"])
def test_dnas_three_phases_equal_plain_torch(k: int, distance: str):
    torch.manual_seed(1)
    model = make_model(k)
    settings = make_settings(
        **DNA, clone_distance=distance, clone_coeff=0.7, learning_rate=0.02, total_frames=2 * N * T
    )
    phases = dna_phases(model, settings)
    head: Any = phases[2].losses[0].value_network_params
    layer = nn.Linear(model.policy_size, 1).double()
    layer.load_state_dict({key: head["module", key].data for key in ("weight", "bias")})
    plain = Plain(model, layer)
    by_phase = [keep_rollouts(phase) for phase in phases]
    torch.manual_seed(2)
    train(model, phases, settings)
    of_policy, of_value, _ = by_phase
    assert not torch.equal(of_policy[0]["advantage"], of_value[0]["advantage"])  # two lambdas

    plain.shuffle.manual_seed(2)
    policy, value = plain.of("trunk", "policy", "policy_head"), plain.of("trunk", "value", "value_head")
    distilled = [*policy, *plain.of("head")]
    adams = [plain_adam(parameters, 0.02) for parameters in (policy, value, distilled)]
    for first, second in zip(of_policy, of_value, strict=True):
        for part in plain.epochs(first, 2, 2):
            step(adams[0], policy_part(plain.logits(part["observation"]), part), policy, 0.5)
        for part in plain.epochs(second, 1, 4):
            step(adams[1], squared(plain.values(part["observation"]), part["value_target"]), value, 0.5)
        frames = second.select("observation")
        frames["old"], frames["value"] = (call(frames["observation"]).detach() for call in (plain.logits, plain.values))
        for part in plain.epochs(frames, 3, 2):
            new = plain.logits(part["observation"])
            if distance == "kl":
                away = divergence(part["old"], new)
            else:
                away = 0.5 * (new - part["old"]).square().mean()
            guess = plain.head(plain.policy_hidden(part["observation"]))
            step(adams[2], squared(guess, part["value"]) + 0.7 * away, distilled, 0.5)

    layers = [model.trunk, model.policy, model.value, model.get_policy_head(), model.get_value_head()]
    expected = plain.of("trunk", "policy", "value", "policy_head", "value_head")
    assert_close(parameters_of(*layers), [p.detach() for p in expected])


def test_dnas_advantages_have_a_lambda_of_their_own_and_its_targets_the_settings():
    found = {}
    for own in (0.3, 0.6):
        torch.manual_seed(1)
        model = make_model()
        settings = make_settings(**DNA | {"dna_lambda": own}, total_frames=N * T)
        phases = dna_phases(model, settings)
        found[own] = [keep_rollouts(phase) for phase in phases]
        torch.manual_seed(2)
        train(model, phases, settings)
    (policy, value, _), (other, same, _) = found[0.3], found[0.6]
    assert not torch.equal(policy[0]["advantage"], other[0]["advantage"])
    assert torch.equal(value[0]["value_target"], same[0]["value_target"])
    assert torch.equal(value[0]["advantage"], same[0]["advantage"])  # by gae_lambda


# ----------------------------------------------------------------------------------------------- the past


def phasic(name: str = "ppg", **changes: Any) -> tuple[ActorValue, list[Phase], Any]:
    torch.manual_seed(1)
    model = make_model()
    settings = make_settings(**SHORT | {"total_frames": 5 * N * T, "checkpoint_every": 1, **changes})
    torch.manual_seed(2)
    phases = ALGORITHMS[name](model, settings)
    torch.manual_seed(2)
    return model, phases, settings


def ran_on(past: int, every: int, rollouts: int) -> list[tuple[int, int]]:
    """The rollouts, counted from 0, on which an auxiliary phase runs, each with the frames that it learns from."""
    model, phases, settings = phasic(
        auxiliary_past=past, auxiliary_every=every, total_frames=rollouts * N * T, auxiliary_epochs=1
    )
    kept, newest, found = keep_rollouts(phases[1]), keep_rollouts(phases[0]), []
    run = phases[1].run

    def counted(*args: Any, **options: Any) -> Any:
        result = run(*args, **options)
        found.append((len(newest) - 1, len(kept[-1])))
        observations = torch.cat([batch["observation"] for batch in newest[-past:]])
        assert kept[-1]["observation"].sort(0).values.equal(observations.sort(0).values)
        return result

    phases[1].run = counted
    train(model, phases, settings)
    return found


def test_an_auxiliary_phase_runs_once_its_rollouts_are_there_and_learns_from_the_last_of_them():
    frames = N * T
    assert ran_on(past=2, every=2, rollouts=5) == [(1, 2 * frames), (3, 2 * frames)]
    assert ran_on(past=2, every=4, rollouts=6) == [(1, 2 * frames), (5, 2 * frames)]
    assert ran_on(past=3, every=1, rollouts=5) == [(2, 3 * frames), (3, 3 * frames), (4, 3 * frames)]


def test_updates_end_a_phase_within_an_epoch():
    model, phases, settings = phasic(auxiliary_minibatches=4, auxiliary_updates=3, total_frames=2 * N * T)
    told = []
    train(model, phases, settings, progress=lambda *what: told.append(what))
    assert [what[1:] for what in told if what[0].startswith("auxiliary")] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("axes", [(), (2,)])
def test_each_rollouts_file_holds_that_rollout_alone_and_is_read_again(axes: tuple[int, ...], on_disk, tmp_path: Path):
    phase = watching(past=8, every=8, start=7, keeps=["observation"])
    drawn = [torch.randint(256, (*axes, 4, 50, 50), dtype=torch.uint8) for _ in range(6)]
    kept, again = (KeptRollouts([phase], tmp_path, on_disk=on_disk) for _ in range(2))
    for number, frames in enumerate(drawn):
        kept.add(TensorDict({"observation": frames}, frames.shape[: len(axes) + 1]), number)
    state = kept.save(6)
    files = sorted((tmp_path / "rollouts").glob("*.pt"))
    assert len(files) == 6
    assert all(drawn[0].nbytes < file.stat().st_size < drawn[0].nbytes + 5000 for file in files)
    again.load(state, tmp_path / "checkpoint.pt")
    assert torch.equal(again.frames()["observation"], torch.cat(drawn, len(axes)))
    kept.close()
    again.close()


def test_rollouts_that_no_phase_learns_from_are_not_copied():
    phase = watching(past=2, every=4, start=1, keeps=["observation"])
    kept, seen = KeptRollouts([phase], None, on_disk=False), []
    for iteration in range(8):
        kept.add(TensorDict(observation=torch.full((3, 1), float(iteration)), batch_size=[3]), iteration)
        seen.append(sorted(set(kept.frames()["observation"].flatten().tolist())))
    assert seen == [[0], [0, 1], [0, 1], [0, 1], [1, 4], [4, 5], [4, 5], [4, 5]]


class StoppedError(Exception):
    """A run was stopped."""


def drift(name: str, rows: list, folder: Path, *, stop: int | None = None, **changes: Any) -> list[Tensor]:
    """Train three agents for five rollouts, or until rollout `stop`, whose checkpoint is not written."""
    kind = "one-hot" if name == "ddcpg" else "continuous"
    models = [of_seeds.make_model(seed, kind, 1) for seed in of_seeds.SEEDS]
    size = of_seeds.N * of_seeds.T
    settings = of_seeds.make_settings(**SHORT | DNA | {"total_frames": 5 * size, "checkpoint_every": 1, **changes})
    phases = ALGORITHMS[name](stacked := stack(models), settings, of_seeds.SEEDS)

    def log(row: dict[str, float], frames: int) -> None:
        rows.append(row)
        if stop is not None and frames == (stop + 1) * size:
            raise StoppedError

    env = of_seeds.Drift(of_seeds.SEEDS, kind)
    train_on_policy(env, stacked, phases, settings, log=log, seeds=of_seeds.SEEDS, checkpoint=folder / "checkpoint.pt")
    return parameters_of(stacked)


def without_clock(rows: list[dict[str, float]]) -> list[str]:
    """The rows as texts, in which a cosine that is nan equals itself."""
    return [str({name: value for name, value in row.items() if not name.startswith("time/")}) for row in rows]


@each(name=["ppg", "dcpg", "ddcpg", "dna"], where=["memory", "disk"])
def test_a_run_stopped_in_any_rollout_goes_on_to_the_bit(tmp_path: Path, name: str, where: str):
    whole: list = []
    expected = drift(name, whole, tmp_path / "whole")
    for stop in (0, 1, 2, 3):
        folder, found = tmp_path / str(stop), []
        with pytest.raises(StoppedError):
            drift(name, [], folder, stop=stop, rollouts_in=where)
        torch.manual_seed(99)
        assert all(map(torch.equal, drift(name, found, folder, rollouts_in=where), expected))
        assert without_clock(found) == without_clock(whole[stop:])


def test_a_loss_of_two_phases_has_the_later_ones_name_before_each_seeds(tmp_path: Path):
    rows: list[dict[str, float]] = []
    drift("ppg", rows, tmp_path)
    shared = {name for row in rows for name in row if name.startswith("loss/critic")}
    assert shared == {
        f"loss/critic{of}{seed}" for of in ("", "_auxiliary") for seed in ("", *(f"/seed{n}" for n in of_seeds.SEEDS))
    }
    row = next(row for row in rows if "loss/critic_auxiliary" in row)
    assert row["loss/critic_auxiliary"] == pytest.approx(
        sum(row[f"loss/critic_auxiliary/seed{seed}"] for seed in of_seeds.SEEDS) / len(of_seeds.SEEDS)
    )


def test_files_of_rollouts_are_those_that_a_later_phase_needs_and_none_after_the_run(tmp_path: Path):
    model, phases, settings = phasic(auxiliary_every=3)
    seen = []
    folder = tmp_path / "rollouts"
    train(
        model,
        phases,
        settings,
        checkpoint=tmp_path / "checkpoint.pt",
        on_checkpoint=lambda: seen.append(sorted(int(file.stem) for file in folder.glob("*.pt"))),
    )
    assert seen == [[0], [0, 1], [], [3], []]  # the phase runs on rollouts 2 and, had the run been longer, 5
    model, phases, settings = phasic(auxiliary_every=3, total_frames=9 * N * T)
    with pytest.raises(CheckpointError, match="keep_rollouts"):
        train(model, phases, settings, checkpoint=tmp_path / "checkpoint.pt")


def test_with_keep_rollouts_a_longer_run_goes_on_as_if_it_had_been_meant_so(tmp_path: Path):
    size = of_seeds.N * of_seeds.T
    longer = drift("ppg", [], tmp_path / "whole", auxiliary_every=3, total_frames=6 * size)
    drift("ppg", [], tmp_path / "short", auxiliary_every=3, keep_rollouts=True)
    again = drift("ppg", [], tmp_path / "short", auxiliary_every=3, total_frames=6 * size)
    assert all(map(torch.equal, again, longer))


@pytest.mark.parametrize("fault", ["gone", "altered", "another"])
def test_a_rollout_that_is_gone_or_altered_is_refused_by_its_file(tmp_path: Path, fault: str):
    model, phases, settings = phasic(auxiliary_every=4, keep_rollouts=True, total_frames=3 * N * T)
    train(model, phases, settings, checkpoint=tmp_path / "checkpoint.pt")
    file = tmp_path / "rollouts" / "0000001.pt"
    if fault == "gone":
        file.unlink()
    elif fault == "altered":
        content = bytearray(file.read_bytes())
        content[-200] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes((tmp_path / "rollouts" / "0000000.pt").read_bytes())
    model, phases, settings = phasic(auxiliary_every=4, keep_rollouts=True)
    with pytest.raises(CheckpointError, match=r"0000001\.pt"):
        train(model, phases, settings, checkpoint=tmp_path / "checkpoint.pt")


def test_what_is_kept_is_counted_before_the_run_and_refused_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch):
    model, phases, settings = phasic()
    env = corridor()
    assert kept_bytes(phases, env, T) == 2 * N * T * (4 * 8 + 4)  # four float64 and a target a frame
    assert kept_bytes(phases[:1], env, T) == 0
    monkeypatch.setattr("decouple.on_policy.kept._free_memory", lambda: 1000.0)
    with pytest.raises(ValueError, match=r"rollouts_in must be disk.*got memory"):
        train(model, phases, settings)
    model, phases, settings = phasic(rollouts_in="disk")
    assert train(model, phases, settings)
    monkeypatch.setattr("decouple.on_policy.kept._free_disk", lambda folder: 1000.0)
    with pytest.raises(ValueError, match=r"rollouts_in must be of fewer rollouts"):
        train(model, phases, settings)


def test_phases_that_learn_from_different_numbers_of_rollouts_are_refused():
    phases = [watching(past=past, keeps=["observation"]) for past in (2, 3)]
    with pytest.raises(ValueError, match=r"past must be the same.*\[2, 3\]"):
        KeptRollouts(phases, None, on_disk=False)
    with pytest.raises(ValueError, match="keeps must be"):
        watching(past=2)


class Products(TorchDispatchMode):
    """Counts the operations of matrix products by PyTorch's own formulas; its counter cannot see through TorchRL's
    losses, whose parameters it takes for modules."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        self.flops += formula(*args, **(kwargs or {}), out_val=out) if formula else 0
        return out


@pytest.mark.parametrize("k", [0, 2, DEPTH])
def test_what_ppgs_phases_compute_is_what_its_table_counts(k: int):
    """A frame goes once through the policy phase, three times through the auxiliary one, and once alone before it."""
    _, _, settings = phasic(policy_epochs=1, auxiliary_epochs=3, total_frames=2 * N * T)
    network = separate(mlp_blocks(4, [64, 64, 64]), mlp_blocks(4, [64, 64, 64]), at=k)
    model = actor_value(network, Categorical(3)).double()
    phases, frames, counts = ppg_phases(model, settings), 2 * N * T, []
    for phase in phases:

        def counted(*args: Any, run: Any = phase.run, **options: Any) -> Any:
            with Products() as products:
                result = run(*args, **options)
            counts.append(products.flops)
            return result

        phase.run = counted
    train(model, phases, settings)
    layers = {name: [m for m in getattr(model, name).modules() if isinstance(m, nn.Linear)] for name in PARTS}
    cost = {name: sum(2 * m.weight.numel() for m in of) for name, of in layers.items()}
    both, head = sum(cost.values()), {"policy": 2 * 3 * 64, "value": 2 * 64}
    first = [of[0] for of in (layers["trunk"], layers["policy"], layers["value"]) if of and of[0].in_features == 4]
    unneeded = sum(2 * m.weight.numel() for m in first)  # no gradient by the observation
    passes = 3 * (both + head["policy"] + head["value"]) - unneeded
    alone = cost["trunk"] + cost["policy"] + head["policy"]
    expected = frames * (passes + 3 * (passes + 3 * head["value"]) + alone)  # the auxiliary head has the value's size
    assert sum(counts) == pytest.approx(expected, rel=0.02)


# ---------------------------------------------------------------------------------------- losses and the cut


def test_the_policy_before_a_phase_stays_what_it_was_while_the_policy_moves():
    torch.manual_seed(1)
    model = make_model()
    batch = TensorDict(observation=torch.randn(3000, 4).double(), batch_size=[3000])  # more than go through at once
    Before(model, values=True)(batch)
    operator = model.get_policy_operator()
    now = operator.get_dist(batch.select("observation")).logits  # normalised
    torch.testing.assert_close(batch["before", "logits"].log_softmax(-1), now)
    torch.testing.assert_close(
        batch["before", "state_value"], model.get_value_operator()(batch.select("observation"))["state_value"]
    )
    kept = batch["before", "logits"].clone()
    loss = CloneLoss(model.get_policy_head())
    features = model.get_features()(batch)
    assert loss(features)["loss_clone"].item() == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    features = model.get_features()(batch)
    found = loss(features)["loss_clone"]
    new = operator.get_dist(batch.select("observation"))
    expected = distributions.kl_divergence(distributions.Categorical(logits=kept), new).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6) and found > 1e-4
    assert batch["before", "logits"].equal(kept) and not batch["before", "logits"].requires_grad


def test_a_phases_own_gradient_scales_hold_while_it_runs_and_only_then():
    model = make_model(2)
    assert (model.cut.policy_gradient, model.cut.value_gradient) == (1, 1)
    with scaled_cuts(model, (0.5, 0.0)):
        assert (model.cut.policy_gradient, model.cut.value_gradient) == (0.5, 0)
    assert (model.cut.policy_gradient, model.cut.value_gradient) == (1, 1)
    with scaled_cuts(model, None):
        assert model.cut.policy_gradient == 1

    changed: dict[tuple[float, float] | None, list[Tensor]] = {}
    for scales in (None, (1.0, 1.0), (0.0, 0.0)):
        torch.manual_seed(1)
        model = make_model(2)
        phases = ALGORITHMS["ppo"](model, make_settings())
        phases[0].cut_gradients = scales
        before = parameters_of(model.trunk)
        torch.manual_seed(2)
        train(model, phases, make_settings())
        changed[scales] = [new - old for new, old in zip(parameters_of(model.trunk), before, strict=True)]
    assert all(map(torch.equal, changed[None], changed[1.0, 1.0]))
    assert all((each == 0).all() for each in changed[0.0, 0.0]) and any((each != 0).any() for each in changed[None])


def chooses(make_phases: Callable, model: tuple[str, int]) -> bool:
    return make_phases is not ddcpg_phases or model[0] != "continuous"


@each(
    chooses,
    make_phases=[ppg_phases, dcpg_phases, dna_phases, ddcpg_phases],
    model=[("continuous", 0), ("one-hot", 1), ("one-hot", 0), ("discrete", 1)],
)
def test_agents_trained_at_once_become_what_they_become_alone(make_phases: Callable, model: tuple[str, int]):
    """Also their auxiliary heads, which the phases make."""
    kind, k = model
    models, found = [of_seeds.make_model(seed, kind, k) for seed in of_seeds.SEEDS], []
    settings = of_seeds.make_settings(**SHORT | DNA)
    for seeds in (of_seeds.SEEDS, *([seed] for seed in of_seeds.SEEDS)):
        torch.manual_seed(len(found))
        own = [models[of_seeds.SEEDS.index(seed)] for seed in seeds]
        found.append(of_seeds.train(own, seeds, settings, kind, make_phases=partial(make_phases, seeds=seeds)))
    (together, rows), *apart = found
    names = {name for row in rows for name in row if name.startswith("loss/") and "/seed" not in name}
    assert {"loss/clone", "loss/critic"} <= names or (make_phases, k) == (dcpg_phases, 0)
    for index, ((alone,), _) in enumerate(apart):
        of_seeds.assert_close(together[index], alone)
