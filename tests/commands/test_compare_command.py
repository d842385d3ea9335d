"""experiments/compare.py: curves of runs that other tests' numbers stand in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from commands import Script

from decouple.runs import comparison
from decouple.runs.comparison import Compare, compare_runs

COMPARE = Script("compare.py")


def run(folder, settings, table):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "metrics.csv").write_text("\n".join([",".join(map(str, row)) for row in table]) + "\n")


@pytest.fixture
def runs(tmp_path):
    """Two runs of one kind that differ in their seed, and one of several seeds of another kind."""
    for seed, values in ((0, (1, 3)), (1, (2, 6))):
        head = [("frames", "eval/return", "loss/critic"), (10, values[0], 1), (20, "", 1), (30, values[1], 1)]
        run(tmp_path / "td3" / str(seed), {"algorithm": "td3", "seed": seed, "run_dir": str(seed)}, head)
    head = [("frames", "eval/return", "eval/return/seed0", "eval/return/seed1"), (10, 5, 4, 6), (20, 7, "nan", 7)]
    run(tmp_path / "sac", {"algorithm": "sac", "alpha": 0.2, "seed": 0, "tags": ["a"]}, head)
    return tmp_path


def test_runs_that_differ_in_their_seed_are_one_curve_named_by_what_differs(runs, monkeypatch):
    figures = []
    monkeypatch.setattr(comparison, "save_figure", lambda figure, path: figures.append(figure))
    with pytest.warns(UserWarning, match="algorithm=sac: the seeds end between 10 and 20 frames; the last value is at"):
        path, rows = compare_runs(Compare(runs=[str(runs)], output=str(runs / "a" / "b.png")))
    assert path == runs / "a" / "b.png"
    assert [row[:4] for row in rows] == [
        ("eval/return", "algorithm=sac", 2, 5.0),  # where the one seed that came to 20 frames was at 10
        ("eval/return", "algorithm=td3", 2, 4.5),
    ]
    assert rows[0][4] == pytest.approx(np.std([4, 6], ddof=1))
    (axes,) = figures[0].axes
    means = [line.get_xydata().tolist() for line in axes.lines if line.get_linewidth() > 1]
    assert means == [[[10, 5]], [[10, 1.5], [30, 4.5]]]  # where all seeds have values
    assert len(axes.lines) == 2 + 4


def test_a_loss_of_another_phase_is_no_seed_of_this_one(tmp_path):
    names = ["loss/critic", *(f"loss/critic/seed{n}{phase}" for n in (0, 1) for phase in ("", "_auxiliary"))]
    names += ["loss/critic_auxiliary", "loss/critic_auxiliary/seed0", "loss/critic_auxiliary/seed1"]
    run(tmp_path / "ppg", {"algorithm": "ppg", "seed": 0}, [["frames", *names], [10, 2, 1, 90, 3, 90, 6, 5, 7]])
    _, rows = compare_runs(
        Compare(runs=[str(tmp_path)], metrics=["loss/critic", "loss/critic_auxiliary"], output=str(tmp_path / "a.png"))
    )
    assert [row[:4] for row in rows] == [("loss/critic", "ppg", 2, 2.0), ("loss/critic_auxiliary", "ppg", 2, 6.0)]


def test_metrics_by_patterns_and_smoothing(runs):
    given = {"runs": [str(runs / "td3" / "*")], "output": str(runs / "a.png")}
    _, rows = compare_runs(Compare(**given, metrics=["loss/*", "eval/return"], smooth=2))
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("eval/return", "all runs", 3.0),
        ("loss/critic", "all runs", 1.0),
    ]
    assert (runs / "a.png").stat().st_size > 1000
    (_, name, seeds, _, spread), *_ = compare_runs(Compare(runs=[str(runs / "td3" / "0")], output=str(runs / "a.png")))[
        1
    ]
    assert (name, seeds) == ("0", 1) and math.isnan(spread)


def test_what_is_not_there_is_refused_by_name(runs):
    with pytest.raises(ValueError, match="runs must be folders with a metrics.csv"):  # noqa: RUF043
        compare_runs(Compare(runs=[str(runs / "nothing")]))
    with pytest.raises(ValueError, match="metrics must be metrics of the runs"):
        compare_runs(Compare(runs=[str(runs)], metrics=["no/such"]))
    for bad in (
        {"runs": []},
        {"runs": ["a"], "metrics": []},
        {"runs": ["a"], "output": "a.gif"},
        {"runs": ["a"], "smooth": 0},
    ):
        with pytest.raises(ValueError, match=f"{list(bad)[-1]} must be "):
            Compare(**bad)


def test_seeds_that_have_failed_are_left_out_by_name(runs):
    (runs / "sac" / "result.json").write_text(
        '{"frames": 20, "final/return": 7, "final/return/seed0": null, "final/return/seed1": 7}'
    )
    (runs / "td3" / "1" / "result.json").write_text('{"frames": 30, "final/return": null}')
    (runs / "td3" / "0" / "result.json").write_text('{"frames": 30, "final/return": 3, "final/unseen_return": null}')
    with pytest.warns(UserWarning, match="has failed, and is left out") as told:
        _, rows = compare_runs(Compare(runs=[str(runs)], output=str(runs / "a.png")))
    assert [row[:4] for row in rows] == [
        ("eval/return", "algorithm=sac", 1, 7.0),
        ("eval/return", "algorithm=td3", 1, 3.0),
    ]
    assert [str(warning.message).removeprefix(str(runs)).partition(" has")[0] for warning in told] == [
        "/sac: seed 0",
        "/td3/1: it",
    ]


def test_each_place_must_hold_runs_and_links_and_brackets_are_followed(runs):
    output = str(runs / "a.png")
    with pytest.raises(ValueError, match=r"runs must be folders with a metrics.csv, or .*; got '.*/typo'"):
        compare_runs(Compare(runs=[str(runs / "td3"), str(runs / "typo")], output=output))
    (runs / "td3" / "1").rename(runs / "moved [1]")
    (runs / "td3" / "1").symlink_to(runs / "moved [1]")
    (runs / "td3" / "around").symlink_to(runs / "td3")
    for given in ([str(runs / "td3")], [str(runs / "td3" / "0"), str(runs / "moved [1]")]):
        _, rows = compare_runs(Compare(runs=given, output=output))
        assert [row[2:4] for row in rows] == [(2, 4.5)]


def test_names_leave_out_what_follows_from_the_algorithm_and_what_older_runs_lack(tmp_path):
    table = [("frames", "eval/return"), (10, 1)]
    for number, settings in enumerate(
        (
            {"alpha": 1, "algorithm": "sac", "rate": 1, "actor": [4]},
            {"alpha": 2, "algorithm": "sac", "rate": 1, "actor": [4]},
            {"algorithm": "td3", "rate": 2, "noise": 0.1, "actor": [4]},
            {"algorithm": "td3", "rate": 2, "noise": 0.1, "actor": [4], "newer": 7, "seed": 1},
        )
    ):
        run(tmp_path / str(number), {"seed": 0, **settings}, table)
    _, rows = compare_runs(Compare(runs=[str(tmp_path)], output=str(tmp_path / "a.png")))
    assert [row[1:3] for row in rows] == [
        ("algorithm=sac, alpha=1", 1),
        ("algorithm=sac, alpha=2", 1),
        ("algorithm=td3", 2),
    ]


def test_a_seed_that_is_in_a_curve_twice_is_refused_with_both_folders(tmp_path):
    table = [("frames", "eval/return"), (10, 1)]
    for name, first, count in (("seeds0_2", 0, 2), ("seeds2_1", 2, 1), ("seeds0_2.1", 0, 2)):
        run(tmp_path / name, {"seed": first, "seeds": count, "run_dir": name}, table)
    output = str(tmp_path / "a.png")
    twice = r"runs must each be there once: all runs, seed 0, is in .*seeds0_2 and in .*seeds0_2\.1; leave one"
    with pytest.raises(ValueError, match=twice):
        compare_runs(Compare(runs=[str(tmp_path)], output=output))
    compare_runs(Compare(runs=[str(tmp_path / "seeds0_2"), str(tmp_path / "seeds2_1")], output=output))


def test_the_command(runs):
    ran = COMPARE.run(runs, "runs=[td3,sac]", "output=both.png")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "curves: both.png" and (runs / "both.png").exists()
    assert "eval/return, last: 4.5 +- 2.121 over 2 seeds   algorithm=td3" in ran.stdout
    assert ran.stderr.splitlines()[-1].startswith("eval/return, algorithm=sac: the seeds end between 10 and 20 frames")
