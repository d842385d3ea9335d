"""deploy/card.py: what a card says, and that its script plays the task from the file alone."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from test_export import off_policy, on_policy
from torchrl.data import Bounded, Categorical, MultiCategorical, Unbounded

from decouple.deploy.card import actor_card
from decouple.deploy.compiled_c import c_compiler
from decouple.deploy.export import export_actor
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.recurrence import gru_block
from decouple.networks.separation import separate

PLAYED = {"mean": -150.25, "low": -160.0, "high": -140.5, "episodes": 3}
FACTS: dict[str, Any] = {
    **{"task": "pendulum", "algorithm": "td3", "seed": 2, "actor": [8, 4], "critic": [], "frames": 5000},
    **{"separation": "full", "return": PLAYED, "return_of_model": PLAYED, "bound": -165.0, "commit": "abc"},
    "latency_us": {"median": 4.5, "p99": 9.25, "processor": "AMD | EPYC"},
    "layout": {"gymnasium": ["Pendulum-v1", {"g": 9.81}], "observation": ["cosine", "sine", "speed"], "assets": "MIT"},
}
# The rest of Python must not be there: this package, PyTorch.
ALONE = "import sys; sys.modules.update(torch=None, decouple=None, tensordict=None); exec(open('play.py').read())"


def script(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)[1]


def of_task(spec: Any, inputs: int) -> ActorValue:
    network = separate(mlp_blocks(inputs, [4]), mlp_blocks(inputs, [4]), at=0, example=torch.zeros(inputs))
    return actor_value(network, spec, policy_gain=1.0)


def test_a_card_says_what_is_known(tmp_path):
    report = export_actor(off_policy(deterministic=True), tmp_path / "actor.pt2", metadata=FACTS)
    card = actor_card(report.path, report.metadata)
    for said in (
        "# pendulum, td3, seed 2\n",
        "| return through this file | -150.25, 95 % interval [-160, -140.5] over 3 episodes |",
        "| bound of the search | -165 |",
        "| size | \\|8x4\\|, 78 parameters |",
        "| multiply-adds an action | 64 |",
        "| latency at batch 1, one thread, here | median 4.5 us, 99th percentile 9.25 us (AMD \\| EPYC) |",
        "| critic beside it in training | linear |",
        "| commit of the training | abc |",
        "float32 [3]:\n\n0. cosine\n1. sine\n2. speed\n",
        "| 0 |  | -1 | 3 |\n| 1 |  | 0 | 0.5 |",
        "actor = torch.export.load('actor.pt2').module()",
    ):
        assert said in card, card
    assert str(tmp_path) not in card
    exec(script(card).replace("'actor.pt2'", repr(str(report.path))))  # it runs


def test_a_card_leaves_out_what_is_not_known(tmp_path):
    for spec, says in ((Categorical(5), "An index, of 5 actions."), (MultiCategorical([3, 2]), "2 indices, of 3, 2")):
        report = export_actor(on_policy(spec), tmp_path / "actor.pt2", sample=True)
        card = actor_card(report.path, report.metadata)
        assert card.startswith("# An actor\n") and "return" not in card and "None" not in card and says in card
        assert "the second input is standard Gumbel noise, float32 [5]" in card


@pytest.mark.parametrize("suffix", ["onnx", "c"])
@pytest.mark.parametrize("task", ["Pendulum-v1", "Acrobot-v1"])
def test_the_cards_script_plays_the_task_without_this_package(suffix, task, tmp_path):
    pytest.importorskip("gymnasium")
    if suffix == "c" and c_compiler() is None:
        pytest.skip("no C compiler is installed")
    model = of_task(Bounded(-2, 2, (1,)), 3) if task == "Pendulum-v1" else of_task(Categorical(3), 6)
    facts = FACTS | {"layout": {"gymnasium": [task, {}]}, "return": PLAYED | {"episodes": 2}}
    report = export_actor(model, tmp_path / f"actor.{suffix}", metadata=facts)
    text = script(actor_card(report.path, report.metadata))
    assert len(text.splitlines()) <= 24
    (tmp_path / "play.py").write_text(text)
    if suffix == "c":
        command = [c_compiler(), "-O2", "-shared", "-fPIC", "-o", "actor.so", "actor.c", "-lm"]
        assert " ".join(command[1:]) in text
        subprocess.run(command, cwd=tmp_path, check=True)
    played = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True)
    assert re.fullmatch(r"return -\d.* \+- .* \(95 %\) over 2 episodes\n", played.stdout), played.stderr


@pytest.mark.parametrize("known", [False, True])
def test_the_script_of_an_actor_with_a_memory_carries_its_state(tmp_path, known):
    pytest.importorskip("gymnasium")
    network = separate([gru_block(6, 8)], mlp_blocks(6, [8]), at=0, example=torch.zeros(6))
    layout = {"layout": {"gymnasium": ["Acrobot-v1", {}]}} if known else {}
    facts = {**FACTS, "return": PLAYED | {"episodes": 2}, **layout}
    facts = facts if known else {name: value for name, value in facts.items() if name != "layout"}
    report = export_actor(actor_value(network, Categorical(3)), tmp_path / "actor.onnx", metadata=facts)
    card = actor_card(report.path, report.metadata)
    assert "The input `state`, float32 [8], is zeros where an episode begins" in card
    if known:
        (tmp_path / "play.py").write_text(script(card))
        played = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True)
        assert re.fullmatch(r"return -\d.* \+- .* \(95 %\) over 2 episodes\n", played.stdout), played.stderr
        return
    found: dict[str, Any] = {}
    exec(script(card).replace("'actor.onnx'", repr(str(report.path))), found)
    assert found["action"].shape == (1,) and found["next_state"].shape == (1, 8)


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_the_call_of_an_actor_that_samples_runs(suffix, memory, tmp_path):
    first = [gru_block(3, 8)] if memory else mlp_blocks(3, [8])
    model = actor_value(separate(first, mlp_blocks(3, [8]), at=0, example=torch.zeros(3)), Bounded(-2, 2, (1,)))
    report = export_actor(model, tmp_path / f"actor.{suffix}", sample=True)
    found: dict[str, Any] = {}
    exec(script(actor_card(report.path, report.metadata)).replace("'actor.", f"'{tmp_path}/actor."), found)
    assert found["action"].shape == (1, 1) and ("next_state" in found) == memory


def test_a_card_says_what_lies_between_the_task_and_the_actor(tmp_path):
    parts = [
        {"name": "goal.place", "first": 0, "shape": [2, 2], "kind": "Box"},
        {"name": "", "first": 4, "shape": [3], "kind": "Discrete"},
    ]
    around = {"wrappers": ["my.module:Seen(size=4)"], "frame_stack": 4, "privileged": ["wind"], "frame_skip": 4}
    task = {"task_action": {"low": [-2.0, None], "high": [2.0, 0.5], "shape": [2, 1]}, "observation_parts": parts}
    changed = {"commit": "abc", "uncommitted_changes": True}
    report = export_actor(on_policy(Unbounded((2,))), tmp_path / "actor.pt2", metadata=around | task | changed)
    card = actor_card(report.path, report.metadata)
    for said in (
        "from the inside out:\n\n- `my.module:Seen(size=4)`\n",
        "the last 4 steps, the oldest first; where an episode begins the first one stands for those before it.",
        "that only the critic read are left out: `wind`.",
        "| 0 to 3 | goal.place | [2, 2] |\n| 4 to 6 | an index, one-hot | [3] |",
        "| 0 |  | -2 | 2 |\n| 1 |  | none | 0.5 |",
        "the task clips it to them, and what else runs the actor must too.",
        "has the shape [2, 1], filled row by row.",
        "Each action holds for 4 frames of the game.",
        "| commit of the training | abc and changes that were not committed |",
    ):
        assert said in card, card
    counted = {"task_action": {"start": -1}}
    report = export_actor(on_policy(Categorical(3)), tmp_path / "actor.c", metadata=counted)
    assert "add -1 to what the actor gives" in actor_card(report.path, report.metadata)
    bounded = export_actor(
        on_policy(), tmp_path / "b.pt2", metadata={"task_action": {"low": [0.0] * 2, "high": [1.0] * 2}}
    )
    assert "clips it" not in actor_card(bounded.path, bounded.metadata)
