"""deploy/plain_c.py, compiled_c.py, constants.py and quantization.py: C files against the models they came from."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from test_export import SAMPLING, SCALING, of_frames, off_policy, on_policy
from torch import nn
from torchrl.data import Categorical, MultiCategorical

from decouple.deploy import compiled_c, contents
from decouple.deploy.compiled_c import CompiledActor, c_compiler
from decouple.deploy.constants import ActorConstants, LinearLayer, actor_constants, constant_actions
from decouple.deploy.export import actor_latency, export_actor
from decouple.deploy.plain_actor import PlainActor
from decouple.deploy.plain_c import c_files, c_name
from decouple.deploy.quantization import quantized_actions, quantized_layers
from decouple.networks.actor_value import actor_value
from decouple.networks.blocks import impala_blocks, mlp_blocks
from decouple.networks.separation import separate
from decouple.runs.files import read_json

COMPILERS = [found for name in ("gcc", "clang") if (found := shutil.which(name))]
STRICTER = ["-Wconversion", "-Wshadow", "-Wdouble-promotion", "-Wcast-qual", "-Wstrict-prototypes"]
compiling = pytest.mark.skipif(c_compiler() is None, reason="no C compiler is installed")
HEADS = SAMPLING | {"td3": lambda: off_policy(deterministic=True)}


def compiled(actor: PlainActor, **options: Any) -> CompiledActor:
    constants = actor_constants(actor)
    layers = quantized_layers(constants, actor.random_inputs(100)[0].numpy()) if options.pop("int8", False) else None
    return CompiledActor(constants, c_files(constants, "actor", {}, layers), "actor", **options)


def by_constants(name: str, **changes: Any) -> ActorConstants:
    return actor_constants(PlainActor(HEADS[name](), **changes))


# ------------------------------------------------------------------------------------------------------- the actions


@compiling
@pytest.mark.parametrize("name", HEADS)
def test_every_head_acts_in_c_as_in_its_model(name, tmp_path):
    """Compared with TorchRL's policy inside; and the code compiles in the strictest way with every compiler here."""
    for sample in (False, True)[: 1 + (name in SAMPLING)]:
        model = HEADS[name]()
        report = export_actor(model, tmp_path / "actor.c", sample=sample, observation_scaling=SCALING)
        assert report.difference < 2e-6 and "compiled by" in report.metadata["checked"]
        assert {file.name for file in tmp_path.iterdir()} == {"actor.c", "actor.h", "actor.c.json"}
        actor = PlainActor(model, sample=sample, observation_scaling=SCALING)
        inputs = actor.random_inputs(20)
        wanted = actor(*inputs).numpy()
        for compiler in COMPILERS:
            with compiled(actor, compiler=compiler, flags=["-O3", *STRICTER]) as found:
                got = found.run(*(x.numpy() for x in inputs))
            assert got.dtype == wanted.dtype and got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-6)


@compiling
def test_the_files_alone_act_in_a_program_of_ones_own(tmp_path):
    """3 -> 1 without a hidden layer: 2 tanh(0.5 x0 - x1 + 0.25), by hand."""
    layer = LinearLayer(np.array([[0.5, -1, 0]], np.float32), np.array([0.25], np.float32), "linear", 0.0)
    bounds = {"low": [-2], "high": [2], "middle": [0], "half_range": [2]}
    arrays = {name: np.array(value, np.float32) for name, value in bounds.items()}
    constants = ActorConstants([layer], None, None, None, "continuous", 1, (), False, None, arrays)
    for name, text in c_files(constants, "my-robot", {"task": "pendulum */ /* x"}).items():
        (tmp_path / name).write_text(text)
    program = """
    #include <stdio.h>
    #include "my-robot.h"
    int main(void) {
        const float observation[MY_ROBOT_OBSERVATIONS] = {1.0f, 0.5f, 9.0f};
        float action[MY_ROBOT_ACTIONS];
        my_robot_act(observation, action);
        printf("%.6f", (double)action[0]);
        return 0;
    }
    """
    (tmp_path / "main.c").write_text(program)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([c_compiler(), *strict, "main.c", "my-robot.c", "-lm", "-o", "main"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert float(printed) == pytest.approx(2 * np.tanh(0.25), abs=1e-6)
    if shutil.which("g++"):
        command = ["g++", "-Wall", "-Wextra", "-Werror", "-x", "c++", "-c", "main.c", "-o", "main.o"]
        subprocess.run(command, cwd=tmp_path, check=True)


@compiling
def test_calls_keep_nothing_between_them():
    actor = PlainActor(on_policy())
    observation = actor.random_inputs(30)[0].numpy()
    with compiled(actor) as found:
        first = found.run(observation)
        found.run(np.full((5, 3), np.nan, np.float32))
        assert (found.run(observation[::-1].copy())[::-1] == first).all()
        assert found.memory().get("stack_bytes", 0) < 300


@compiling
def test_a_name_in_c_comes_from_the_files():
    names = {"actor_seed3": "actor_seed3", "actor-3.5": "actor_3_5", "3": "actor_3", "_x": "actor__x", "int": "int"}
    assert {stem: c_name(stem) for stem in names} == names
    constants = by_constants("td3")
    with CompiledActor(constants, c_files(constants, "int", {}), "int") as found:
        assert found.run(np.zeros((1, 3), np.float32)).shape == (1, 2)
    with pytest.raises(ValueError, match="path must be a file name of letters, digits"):
        c_files(constants, 'ac"tor', {})


# ----------------------------------------------------------------------------------------- NaN and huge observations


@compiling
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", ["ppo", "ppo, unbounded", "ppo, discrete", "ppo, one-hot", "ppo, several", "td3"])
def test_an_observation_with_nan_gives_nan_or_the_first_action(name, int8):
    """As in PyTorch, where each score is NaN then and the first one counts as the largest."""
    actor = PlainActor(HEADS[name](), observation_scaling=SCALING)
    observation = torch.zeros(3, 3)
    observation[[0, 1, 2], [0, 1, 2]] = torch.nan
    with compiled(actor, int8=int8) as found:
        np.testing.assert_array_equal(found.run(observation.numpy()), actor(observation).numpy())


@compiling
@pytest.mark.parametrize("clip", [10.0, None])
@pytest.mark.parametrize("name", ["ppo", "td3", "ppo, discrete"])
def test_huge_observations_act_as_in_pytorch(name, clip):
    """With a clip they count as the clip; without one actions stay between their bounds, or are PyTorch's NaN."""
    scaling = SCALING._replace(clip=clip)
    actor = PlainActor(HEADS[name](), observation_scaling=scaling)
    values = [1e30, -1e30, 3e38, -3e38, np.inf, -np.inf]
    observation = torch.tensor([[a, b, c] for a in values for b in values for c in values])
    wanted = actor(observation)
    with compiled(actor) as found:
        got = found.run(observation.numpy())
    finite = torch.ones(len(wanted), dtype=torch.bool) if actor.space.discrete else wanted.isfinite().all(-1)
    assert clip is None or finite.all()
    if clip is not None:
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-5)
    elif not actor.space.discrete:
        np.testing.assert_array_equal(np.isnan(got), wanted.isnan().numpy())
        inside = got[~np.isnan(got).any(-1)]
        assert (inside >= actor.space.low.numpy()).all() and (inside <= actor.space.high.numpy()).all()
    else:
        assert ((got >= 0) & (got < 5)).all()


@compiling
def test_int8_takes_what_is_beyond_its_scales_as_their_largest():
    actor = PlainActor(off_policy(deterministic=True))
    calibration = actor.random_inputs(100)[0].numpy()
    constants = actor_constants(actor)
    layers = quantized_layers(constants, calibration)
    largest = np.abs(calibration).max()
    with CompiledActor(constants, c_files(constants, "actor", {}, layers), "actor") as found:
        assert (found.run(np.full((1, 3), np.inf, np.float32)) == found.run(np.full((1, 3), largest, np.float32))).all()


# --------------------------------------------------------------------------------------------------------------- int8


def test_int8_by_hand():
    """Weights 1 and -0.5 are 127 and -64 (63.5, to even) of 1/127; inputs up to 2 are 63.5 whole numbers a unit."""
    layer = LinearLayer(np.array([[1.0, -0.5]], np.float32), np.array([0.125], np.float32), "linear", 0.0)
    constants = ActorConstants([layer], None, None, None, "continuous", 1, (), False, None, {})
    (found,) = quantized_layers(constants, np.array([[2.0, -1.0]], np.float32))
    assert found.weight.tolist() == [[127, -64]] and found.weight.dtype == np.int8
    assert found.steps == pytest.approx(63.5) and found.scale == pytest.approx(2 / 127 / 127)
    # 1 -> 63.5 -> 64, 0.5 -> 31.75 -> 32: (127 * 64 - 64 * 32) * 2 / 127^2 + 0.125
    action = quantized_actions(constants, [found], np.array([[1.0, 0.5]], np.float32))
    assert action[0, 0] == pytest.approx((127 * 64 - 64 * 32) * 2 / 127**2 + 0.125, abs=1e-6)


@compiling
@pytest.mark.parametrize("name", HEADS)
def test_int8_in_c_is_its_plain_reading(name):
    actor = PlainActor(HEADS[name](), observation_scaling=SCALING)
    observation = actor.random_inputs(500)[0].numpy()
    constants = actor_constants(actor)
    layers = quantized_layers(constants, observation)
    for compiler in COMPILERS:
        files = c_files(constants, "actor", {}, layers)
        with CompiledActor(constants, files, "actor", compiler=compiler, flags=["-O3", *STRICTER]) as found:
            got = found.run(observation)
    wanted = quantized_actions(constants, layers, observation)
    apart = np.abs(got - wanted).reshape(500, -1).max(-1) > 1e-5
    assert apart.mean() < 0.01  # a rounding of tanh may turn a whole number into its neighbour
    assert got.dtype == PlainActor(HEADS[name]())(torch.zeros(1, 3)).numpy().dtype


@compiling
def test_int8_is_a_quarter_of_the_weights_and_close_to_the_model(tmp_path):
    network = separate(mlp_blocks(3, [64, 64]), mlp_blocks(3, [8]), at=0, example=torch.zeros(3))
    model = actor_value(network, Categorical(5), policy_gain=1.0)
    observations = torch.randn(200, 3)
    flash = {}
    for precision in ("float32", "int8"):
        options = {"precision": precision, "observations": observations}
        report = export_actor(model, tmp_path / f"{precision}.c", **options)
        flash[precision] = report.metadata["flash_bytes"]
        assert report.metadata["precision"] == precision == read_json(tmp_path / f"{precision}.c.json")["precision"]
    saved = flash["float32"] - flash["int8"]
    assert saved == pytest.approx(3 * (3 * 64 + 64 * 64 + 64 * 5), rel=0.05)  # three of four bytes of each weight
    assert report.difference < 0.2 and report.tolerance == np.inf


def test_what_c_cannot_hold_is_refused_by_name(tmp_path):
    frames = of_frames(impala_blocks, (3, 16, 16), 2, channels=(4, 4, 4), hidden_size=16)
    with pytest.raises(ValueError, match=r"model must have an actor of linear layers .* holds ImpalaStage"):
        export_actor(frames, tmp_path / "actor.c")
    odd = separate(mlp_blocks(3, [8], nn.GELU), mlp_blocks(3, [8]), at=0, example=torch.zeros(3))
    with pytest.raises(ValueError, match=r"model must .* the policy has GELU"):
        export_actor(actor_value(odd, Categorical(2)), tmp_path / "actor.c")
    with pytest.raises(ValueError, match=r"observations must be given in int8, .*; got None"):
        export_actor(on_policy(), tmp_path / "actor.c", precision="int8")
    with pytest.raises(ValueError, match="observations must be finite"):
        export_actor(on_policy(), tmp_path / "actor.c", precision="int8", observations=torch.full((1, 3), torch.inf))
    with pytest.raises(ValueError, match=r"precision must be .*; got 'int8'"):
        export_actor(on_policy(), tmp_path / "actor.pt2", precision="int8", observations=torch.zeros(1, 3))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- the check itself


@compiling
def test_a_bound_that_is_infinite_is_none(tmp_path):
    report = export_actor(on_policy(), tmp_path / "actor.c", observation_scaling=SCALING._replace(clip=np.inf))
    assert report.difference < 1e-4 and "inf" not in (tmp_path / "actor.c").read_text()
    assert report.metadata["observation_scaling"]["clip"] is None  # JSON has no infinity


@compiling
def test_a_compiler_with_arguments_in_front_gives_way_to_another(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    usual = c_compiler()
    for given in ("ccache gcc", "/nowhere/cc"):
        monkeypatch.setenv("CC", given)
        assert c_compiler() == usual
    monkeypatch.setenv("CC", COMPILERS[-1])
    assert c_compiler() == COMPILERS[-1]


@compiling
def test_a_compiler_for_another_machine_gives_way_to_one_whose_programs_run_here(tmp_path, monkeypatch):
    """As arm-none-eabi-gcc: it compiles the actor, but what it links is nothing that this machine loads."""
    (cross := tmp_path / "cross-gcc").write_text(f"""#!/bin/sh
case "$*" in *-shared*) echo "cross-gcc: no -shared here" >&2; exit 1;; esac
exec {c_compiler()} "$@"
""")
    cross.chmod(0o755)
    monkeypatch.setenv("CC", str(cross))
    report = export_actor(on_policy(), tmp_path / "around.c")  # a name that the check's own file had
    assert report.metadata["checked"].startswith("compiled by ") and report.difference < 1e-4
    assert actor_latency(on_policy(), runtimes=["c"], batch_sizes=[1], seconds=0)[0]["calls"] >= 20
    monkeypatch.setattr(compiled_c, "_compilers", lambda: [str(cross)])
    report = export_actor(on_policy(), tmp_path / "actor.c")
    assert report.metadata["checked"].startswith("NumPy's reading of its numbers; what ")
    assert "cross-gcc makes does not run here" in report.metadata["checked"]


@compiling
def test_a_file_with_a_wrong_number_is_not_written(tmp_path, monkeypatch):
    right = contents.c_files

    def wrong(*arguments: Any) -> dict[str, str]:
        files = right(*arguments)
        return files | {"actor.c": re.sub(r"bias_1\[4\] = \{\s+", "bias_1[4] = {1.0f + ", files["actor.c"])}

    monkeypatch.setattr(contents, "c_files", wrong)
    with pytest.raises(RuntimeError, match="actions must be the model's"):
        export_actor(on_policy(), tmp_path / "actor.c")
    options = {"precision": "int8", "observations": torch.randn(50, 3)}
    with pytest.raises(RuntimeError, match="int8 actions differ from their plain reading"):
        export_actor(on_policy(), tmp_path / "actor.c", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_without_a_compiler_the_numbers_alone_are_checked_and_that_is_said(precision, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    options = {"precision": precision, "observations": torch.randn(20, 3)}
    report = export_actor(on_policy(MultiCategorical([3, 2])), tmp_path / "actor.c", **options)
    assert report.metadata["checked"] == "NumPy's reading of its numbers; no C compiler was found"
    assert report.path.exists() and "flash_bytes" not in report.metadata
    with pytest.raises(FileNotFoundError, match="a C compiler"):
        actor_latency(on_policy(), runtimes=["c"], seconds=0.0)


@compiling
def test_what_a_compiler_refuses_is_its_own_message(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "c_files", lambda *_: {"actor.h": "", "actor.c": "int x = ;"})
    with pytest.raises(RuntimeError, match=r"refuses the actor's files: [\s\S]*error"):
        export_actor(on_policy(), tmp_path / "actor.c")


def test_accept_has_the_last_word_and_adds_facts(tmp_path):
    def refuse(content: contents.Content) -> dict[str, Any]:
        assert content.run(torch.zeros(2, 3)).shape == (2, 2)
        raise RuntimeError("it does not do its job")

    with pytest.raises(RuntimeError, match="does not do its job"):
        export_actor(on_policy(), tmp_path / "actor.c", accept=refuse)
    assert not list(tmp_path.iterdir())
    report = export_actor(on_policy(), tmp_path / "actor.c", accept=lambda _: {"return": -150.0})
    assert report.metadata["return"] == read_json(tmp_path / "actor.c.json")["return"] == -150.0
    assert " * return: -150.0\n" in (tmp_path / "actor.h").read_text()


@compiling
def test_latency_in_c():
    rows = actor_latency(on_policy(), runtimes=["c"], batch_sizes=[1, 10], seconds=0.001)
    assert [(row["runtime"], row["batch"]) for row in rows] == [("c", 1), ("c", 10)]
    assert all(0 < row["median_us"] <= row["p99_us"] for row in rows)


def test_constants_are_numpys_reading_of_pytorch():
    for name in HEADS:
        for sample in (False, True)[: 1 + (name in SAMPLING)]:
            actor = PlainActor(HEADS[name](), sample=sample, observation_scaling=SCALING)
            inputs = actor.random_inputs(50)
            found = constant_actions(actor_constants(actor), *(x.numpy() for x in inputs))
            np.testing.assert_allclose(found, actor(*inputs).numpy(), rtol=0, atol=5e-6)


def test_every_number_reads_back_as_itself():
    weight = torch.randn(4, 3) * 10.0 ** torch.randint(-38, 38, (4, 3))
    constants = by_constants("ppo, one-hot")
    layer = constants.layers[0]._replace(weight=weight.numpy())
    text = c_files(constants._replace(layers=[layer, *constants.layers[1:]]), "actor", {})["actor.c"]
    table = re.search(r"weight_0\[3\]\[4\] = \{([^;]*)\}", text)[1]
    found = [np.float32(number) for number in re.findall(r"[-+.e\d]+(?=f)", table)]
    assert found == weight.numpy().T.ravel().tolist()
