"""experiments/watch.py: agents of every algorithm and kind of task at play."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from commands import Script
from marks import needs_games
from PIL import Image
from tensordict import TensorDict

from decouple.analysis.at_play import agent_at_play
from decouple.envs.control.tasks import control_env
from decouple.envs.procgen.games import procgen_env
from decouple.runs.checkpoint import load_checkpoint
from decouple.studies import watch as watching
from decouple.studies.actor_size import play_strips
from decouple.studies.actor_size.algorithms import CONTROL_ALGORITHMS
from decouple.studies.actor_size.cell import train_agents
from decouple.studies.actor_size.load import trained_actor
from decouple.studies.actor_size.play_strips import study_strips
from decouple.studies.actor_size.results import SizeCell, SizeStudy
from decouple.studies.actor_size.stage import agent_film
from decouple.studies.separation.experiment import prepare, train
from decouple.studies.separation.page import Picture
from decouple.studies.separation.settings import procgen_experiment
from decouple.studies.separation.strips import procgen_film, strip_section
from decouple.studies.watch import Watch, watch

WATCH = Script("watch.py")
QUIET = {"final_episodes": 1, "evaluate_episodes": 1, "show_progress": False, "actor": [4], "critic": [4]}
OFF = {"total_frames": 60, "learning_starts": 50, "batch_size": 8, "log_every": 60, "evaluate_every": 60}
OFF |= {"checkpoint_every": 60, "buffer_size": 100}
ON = {"total_frames": 40, "rollout_steps": 40, "minibatches": 2}


def trained(folder, algorithm: str, env: str, **settings):
    own = (OFF if algorithm in ("sac", "td3", "ddpg") else ON) | QUIET | settings
    train_agents(CONTROL_ALGORITHMS[algorithm](env=env, run_dir=str(folder), **own))
    return folder


@pytest.mark.parametrize(
    ("algorithm", "env", "settings"),
    [
        ("sac", "acrobot", {"normalize_observation": True}),
        ("td3", "pendulum", {"seeds": 2}),
        ("ppo", "pixelcopter", {"frame_skip": 3}),
        ("sac", "pong", {}),
        ("ppo", "CartPole-v1", {"env_kwargs": {"sutton_barto_reward": True}}),
    ],
)
def test_an_agent_of_a_control_task_is_drawn(tmp_path, algorithm, env, settings):
    pytest.importorskip("pygame")
    run = trained(tmp_path / "run", algorithm, env, **settings)
    seed = settings.get("seeds", 1) - 1
    returns, files = watch(Watch(checkpoint=str(run), seed=seed, episodes=2, steps=9, width=40, formats=["gif"]))
    assert files == [run / f"watch_seed{seed}.gif"] and len(returns) == 2 and np.isfinite(returns).all()
    with Image.open(files[0]) as film:
        film.seek(film.n_frames - 1)
        assert np.asarray(film.convert("RGB")).std() > 10
    again, _ = watch(Watch(checkpoint=str(run), seed=seed, episodes=2, steps=9, width=40, formats=["gif"]))
    assert again == returns
    other, _ = watch(Watch(checkpoint=str(run / "checkpoint.pt"), steps=1, first_seed=5, output=str(tmp_path / "a/b")))
    assert len(other) == 4 and (tmp_path / "a" / "b.gif").exists()


def test_value_and_entropy_are_those_of_the_agents_own_networks(tmp_path):
    run = trained(tmp_path, "sac", "pendulum")
    model, _ = trained_actor(load_checkpoint(run / "checkpoint.pt"), 0)
    observation = torch.randn(1, 3, 3)
    played = agent_at_play(model)(TensorDict({"observation": observation}, [1, 3]))
    shown = TensorDict({"observation": observation, "action": played.step["action"]}, [1, 3])
    critics = [critic(shown.copy())["state_action_value"] for critic in model.get_qvalue_operators()]
    torch.testing.assert_close(played.value, torch.minimum(*critics).reshape(-1))
    distribution = model.get_policy_operator().get_dist(shown.copy())
    sampled = distribution.sample(torch.Size([20_000]))
    estimated = -distribution.log_prob(sampled).mean(0)
    torch.testing.assert_close(played.entropy, estimated, atol=0.05, rtol=0)
    assert (played.entropy < math.log(4)).all()  # of the uniform distribution on [-2, 2]


def test_of_a_discrete_action_the_value_is_that_of_the_action_chosen(tmp_path):
    run = trained(tmp_path, "sac", "acrobot")
    model, _ = trained_actor(load_checkpoint(run / "checkpoint.pt"), 0)
    observation = torch.randn(1, 5, 6)
    played = agent_at_play(model)(TensorDict({"observation": observation}, [1, 5]))
    critics = [
        c(TensorDict({"observation": observation}, [1, 5]))["action_value"] for c in model.get_qvalue_operators()
    ]
    least = torch.minimum(*critics)[0]
    expected = [least[row, action] for row, action in enumerate(played.step["action"][0])]
    torch.testing.assert_close(played.value, torch.stack(expected))


@needs_games
def test_an_agent_of_procgen_is_drawn_as_it_sees_the_game(tmp_path):
    tiny = {"num_envs": 2, "rollout_steps": 8, "minibatches": 2, "total_frames": 16, "num_levels": 3}
    tiny |= {"evaluate_episodes": 1, "final_episodes": 1, "epochs": 1, "unseen": None, "precision": "fp32"}
    train(prepare(procgen_experiment(env="bossfight", run_dir=str(tmp_path), **tiny)))
    stage = watching._Stage(
        Watch(checkpoint=str(tmp_path), episodes=2), load_checkpoint(tmp_path / "checkpoint.pt"), None
    )
    games = procgen_env("bossfight", 2, num_levels=0, seed=0)
    first = games.reset()["observation"]
    np.testing.assert_array_equal(stage.pictures(stage.env.reset())[1], first[1].permute(1, 2, 0).numpy())
    stage.close()
    games.close()
    settings = {"checkpoint": str(tmp_path), "episodes": 2, "steps": 3, "width": 32, "formats": ["gif"]}
    assert watch(Watch(**settings)) == watch(Watch(**settings))  # samples by its own seed
    assert watch(Watch(**settings, levels="train"))[1][0].stat().st_size > 100
    strips = strip_section({"late": lambda: procgen_film(tmp_path, 3), "full": missing}, drawn_by(tmp_path), 2)
    assert strips is not None and strips.paragraphs == ["- full is not drawn: no checkpoint"]
    shown, _ = DRAWN[0].axes
    np.testing.assert_array_equal(shown.images[0].get_array(), first[0].permute(1, 2, 0).numpy())


DRAWN: list = []


def drawn_by(folder):
    def picture(name, figure, caption):
        DRAWN[:] = [figure]
        return Picture(folder / f"{name}.png", caption)

    return picture


def missing():
    raise FileNotFoundError("no checkpoint")


def test_a_strip_shows_the_agents_own_episode_without_exploration(tmp_path, monkeypatch):
    pytest.importorskip("pygame")
    run = trained(tmp_path / "run", "td3", "pendulum", seeds=2)
    film = agent_film(run, 1, 5)
    returns, _ = watch(Watch(checkpoint=str(run), seed=1, episodes=1, steps=5, width=40, formats=["gif"]))
    assert film.returns == returns and len(film.frames) == 5
    section = strip_section({"k=1": lambda: agent_film(run, 1, 5)}, drawn_by(tmp_path), 3)
    assert section is not None and not section.paragraphs
    assert [axes.get_title() for axes in DRAWN[0].axes][:2] == ["step 0", "step 2"]
    assert strip_section({"k=1": missing}, drawn_by(tmp_path), 0) is None
    with pytest.raises(ValueError, match="seed must be one of the run's"):
        agent_film(run, 2, 5)

    # A search's baseline and its smallest actor, whose run has no checkpoint here; the best seed is drawn.
    trial = {"actor": [4, 4], "critic": [4, 4]}
    search = {"baseline": trial, "asymmetric": trial | {"actor": [2]}}
    cells = [cell_of((4, 4), {0: -7.0, 1: -5.0}, run), cell_of((2,), {0: -8.0})]
    drawn = []
    monkeypatch.setattr(play_strips, "agent_film", lambda *of: drawn.append(of) or film)
    strips = study_strips(SizeStudy("pendulum", "td3", "{}", tuple(cells), (), search), frames=3)
    assert drawn == [(run, 1, play_strips.STEPS)] and strips.figure.axes[0].get_ylabel() == "baseline\n|4,4|"
    assert strips.not_drawn == ["smallest actor |2| is not drawn: no checkpoint of it is here"]


def cell_of(actor, returns, *folders):
    return SizeCell(actor, (4, 4), None, None, {"return": returns}, (), folders)


def test_what_cannot_be_drawn_is_refused_by_name(tmp_path, monkeypatch):
    run = trained(tmp_path / "run", "ddpg", "toy")
    with pytest.raises(
        ValueError, match=r"checkpoint must be of a task that has pictures: toy and unity have none; got "
    ):
        watch(Watch(checkpoint=str(run)))
    with pytest.raises(ValueError, match=r"seed must be one of the run's, .*; got 3"):
        watch(Watch(checkpoint=str(run), seed=3))
    with pytest.raises(ValueError, match="formats must be gif, mp4, or both, in a list; got "):
        Watch(checkpoint="run", formats=["avi"])
    with pytest.raises(ValueError, match="checkpoint must be a run's folder, or its checkpoint; got None"):
        Watch()
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'torchrl-decouple\[video\]'"):
        watch(Watch(checkpoint=str(run), formats=["mp4"]))
    assert not list(run.glob("watch*"))


def test_pictures_need_gymnasiums_backend_and_a_library_to_draw(monkeypatch):
    with pytest.raises(ValueError, match="backend must be gymnasium for pictures; got 'batched'"):
        control_env("pendulum", [0]).pictures()
    env = control_env("pendulum", [0], backend="gymnasium")
    env.reset()
    with pytest.warns(UserWarning, match="render"), pytest.raises(ValueError, match="draws pictures as rgb_array"):
        env.pictures()

    def fails():
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    monkeypatch.setattr(env._games.games[0], "render", fails)
    with pytest.raises(ImportError, match=r"a picture of pendulum needs pygame-ce: pip install .*\(.*glGetError"):
        env.pictures()
    env._games.simulator = "mujoco"
    with pytest.raises(ImportError, match="needs OpenGL without a window: the system's libegl1, or libosmesa6"):
        env.pictures()


@pytest.mark.skipif(not importlib.util.find_spec("pygame"), reason="draws Pendulum")
def test_the_command(tmp_path):
    trained(tmp_path / "run", "td3", "pendulum")
    ran = WATCH.run(tmp_path, "checkpoint=run", "episodes=1", "steps=2", "width=32", "formats=[gif]")
    assert ran.returncode == 0, ran.stderr
    says, file = ran.stdout.splitlines()
    assert says.startswith("returns, as far as played: -") and file.startswith("run/watch_seed0.gif: ")
    refused = WATCH.run(tmp_path, "checkpoint=nothing")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr and "nothing" in refused.stderr


@pytest.mark.skipif(not importlib.util.find_spec("pygame"), reason="draws Pendulum")
def test_video_draws_the_agent_after_training(tmp_path):
    few = [f"{name}={value}" for name, value in (OFF | QUIET).items()]
    few = [argument.replace(" ", "").replace("False", "false") for argument in few]
    ran = Script("control.py").run(tmp_path, "env=pendulum", "algorithm=td3", "video=true", "run_dir=run", *few)
    assert ran.returncode == 0, ran.stderr
    assert "run/watch_seed0.gif" in ran.stdout.splitlines() and (tmp_path / "run" / "watch_seed0.gif").exists()
    with pytest.raises(ValueError, match="video must be false for env=toy; got True"):
        CONTROL_ALGORITHMS["td3"](env="toy", video=True)
