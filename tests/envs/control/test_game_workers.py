"""Games in processes: the numbers of one process, to the bit, saved states, errors, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from commands import Script

from decouple.envs.control.game_workers import GameWorkers
from decouple.envs.control.tasks import control_env

pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def workers():
    made = GameWorkers(2)
    yield made
    made.close()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:
        return file.read().split(")")[1].split()[0] != "Z"


def steps(env, number=30):
    """Everything that a number of fixed actions gives."""
    generator, rows = torch.Generator().manual_seed(0), []
    now = env.plain_reset()
    for _ in range(number):
        action = torch.randint(2, env.action_spec.shape, generator=generator)
        stepped, now = env.plain_step(action)
        rows.append([*stepped.values(), now])
    return rows


def equal(one, other):
    return all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


def test_any_number_of_processes_gives_the_numbers_of_one_to_the_bit(workers):
    options = {"normalize_observation": True, "normalize_reward": True}
    alone = control_env("CartPole-v1", [0, 1], 3, **options)
    apart = control_env("CartPole-v1", [0, 1], 3, **options, env_workers=workers)
    assert equal(steps(alone), steps(apart))
    state = alone.state_dict()
    apart.load_state_dict(alone.state_dict())  # either continues the other
    resumed = control_env("CartPole-v1", [0, 1], 3, **options, env_workers=workers)
    resumed.load_state_dict(state)
    assert equal(steps(apart), steps(resumed))


def test_each_process_has_numbers_of_its_own_and_the_environment_of_its_start(workers, monkeypatch):
    shown = control_env("odd_tasks:Odd/Global-v0", [0], 2, env_workers=workers).plain_reset()[0]
    assert shown[0, 0] != shown[1, 0] and shown[:, 1].tolist() == [-1, -1]
    monkeypatch.setenv("ODD", "7")
    later = GameWorkers(1)
    assert control_env("odd_tasks:Odd/Global-v0", [0], 1, env_workers=later).plain_reset()[0][0, 1] == 7
    later.close()


def test_processes_that_cannot_be_started_name_the_setting(monkeypatch):
    def refused() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", refused)
    with pytest.raises(RuntimeError, match=r"env_workers: a process cannot be started: AF_UNIX path too long .*TMPDIR"):
        GameWorkers(2)


def test_fewer_games_than_processes_and_levels(workers):
    levels = {"levels": range(5)}
    assert equal(steps(control_env("CartPole-v1", [3], 1, **levels)),
                 steps(control_env("CartPole-v1", [3], 1, **levels, env_workers=workers)))  # fmt: skip


def test_an_error_in_a_process_is_raised_here_and_the_processes_go_on(workers):
    with pytest.raises(ValueError, match="env_kwargs must be arguments of CartPole-v1"):
        control_env("CartPole-v1", [0], 2, env_kwargs={"gravity": 3}, env_workers=workers)
    env = control_env("CartPole-v1", [0], 2, env_workers=workers)
    assert torch.isfinite(env.plain_reset()).all()
    with pytest.raises(TypeError, match="env_workers cannot be copied"):
        env._games.__getstate__()
    env.close()


@pytest.mark.slow  # starts two processes, each of which imports TorchRL
def test_a_process_that_is_gone_is_said():
    made = GameWorkers(2)
    env = control_env("CartPole-v1", [0], 2, env_workers=made)
    env.plain_reset()
    own = made.processes[0]
    own.kill()
    own.join()
    with pytest.raises(RuntimeError, match="a process of env_workers has ended"):
        env.plain_step(torch.zeros(1, 2, dtype=torch.int64))
    env.close()
    others = [process.pid for process in made.processes]
    made.close()
    assert not any(map(alive, others))


def test_processes_are_started_from_a_script(tmp_path):
    """They import the script again, from whose folder Python no longer imports, and nothing of the current folder."""
    for name in ("random", "secrets", "decouple"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported')")
    small = ("env=CartPole-v1", "algorithm=ppo", "num_envs=2", "rollout_steps=8", "minibatches=2", "total_frames=32")
    small += ("evaluate_episodes=1", "final_episodes=1", "show_progress=false", "env_workers=2", "num_threads=1")
    done = Script("control.py").alone(tmp_path, *small, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0 and "Gym has been" not in done.stderr, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["frames"] == 32


def test_bad_numbers_and_backends_are_refused():
    for number in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="env_workers"):
            control_env("CartPole-v1", [0], env_workers=number)
    with pytest.raises(ValueError, match="backend must be auto or gymnasium with env_workers; got 'batched'"):
        control_env("pendulum", [0], 2, backend="batched", env_workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_no_process_is_left_behind(ending, tmp_path):
    script = tmp_path / "plays.py"
    script.write_text(
        textwrap.dedent("""
        import torch
        from decouple.envs.control.tasks import control_env

        if __name__ == "__main__":
            env = control_env("CartPole-v1", [0], 4, env_workers=2)
            env.plain_reset()
            print(*(process.pid for process in env.workers.processes), flush=True)
            while True:
                env.plain_step(torch.zeros(1, 4, dtype=torch.int64))
    """)
    )
    run = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout and run.stderr
    processes = [int(each) for each in run.stdout.readline().split()]
    assert len(processes) == 2 and all(map(alive, processes))
    run.send_signal(ending)
    said = run.communicate(timeout=60)[1]
    deadline = time.monotonic() + 30
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, processes))
    assert said.count("Traceback") == (ending == signal.SIGINT)  # of the first process alone
