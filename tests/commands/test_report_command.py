"""experiments/report.py: the command on run folders, what it says of wrong ones, and its page in a real browser."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess

import pytest
from commands import Script
from damage import damage
from study_folders import write_run, write_study

from decouple.studies.separation.report import Report, separation_report

pytest.importorskip("rliable")

REPORT = Script("report.py")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PICTURES = [
    *("figure_2_by_ppo", "figure_2_by_range", "figure_3_test_return", "generalisation_gap"),
    *("improvement", "profiles", "train_return"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report, and what the command printed."""
    folder = tmp_path_factory.mktemp("report")
    write_study(folder / "runs", unseen=True)
    ran = REPORT.run(folder, "runs='runs/*'", "out=out", "repetitions=100")
    assert ran.returncode == 0, ran.stderr
    return folder / "out", ran


def made(folder, **settings):
    """The report of the runs in a folder, written in this process."""
    page, _, advice = separation_report(Report(runs=str(folder / "runs"), out=str(folder / "out"), **settings))
    return page, advice


def table(folder, name):
    with open(folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_what_comes_out(report):
    folder, ran = report
    assert {path.stem for path in folder.glob("*.png")} == {*PICTURES, "unseen_return"}
    tables = {path.stem for path in folder.glob("*.md")}
    assert tables == {
        *("runs", "aggregates_by_ppo", "aggregates_by_range", "improvement", "scores", "generalisation", "cost"),
        "full_against_late",
    }
    assert {path.stem for path in folder.glob("*.csv")} == tables | {"curves", "profiles"}
    assert "Unfinished, in the curves alone (dashed): full on maze, seed 2" in ran.stderr
    assert "the report is out/report.html" in ran.stdout


def test_aggregates_worked_out_by_hand(report):
    folder, _ = report
    shared, late, full = table(folder, "aggregates_by_ppo")
    assert [row["variant"] for row in (shared, late, full)] == ["shared", "late", "full"]
    # On maze and plunder, PPO's means are 5.5 and 4.5; late has 8 and 6.5, full 6 and 9.5.
    assert float(shared["mean"]) == pytest.approx(1.0)
    assert float(late["mean"]) == pytest.approx((8 / 5.5 + 6.5 / 4.5) / 2)
    assert float(full["median"]) == pytest.approx((6 / 5.5 + 9.5 / 4.5) / 2)
    # By the ranges 5 to 10 and 4.5 to 30: gaps of full are .9 .7 on maze, 21/25.5 and 20/25.5 on plunder.
    by_range = {row["variant"]: row for row in table(folder, "aggregates_by_range")}
    assert float(by_range["full"]["optimality gap"]) == pytest.approx((0.9 + 0.7 + 21 / 25.5 + 20 / 25.5) / 4)
    assert float(late["IQM low"]) < float(late["IQM"]) < float(late["IQM high"])


def test_every_pair_is_compared_and_full_game_by_game(report):
    folder, _ = report
    improvement = {(row["variant"], row["against"]): row for row in table(folder, "improvement")}
    assert set(improvement) == {("shared", "late"), ("shared", "full"), ("late", "full")}
    assert float(improvement["shared", "late"]["probability of improvement"]) == 0.0
    by_game = {row["games"]: row for row in table(folder, "full_against_late")}
    assert float(by_game["plunder"]["probability of improvement"]) == 1.0
    assert by_game["plunder"]["verdict"] == "the seeds cannot tell"  # two against two


def test_the_page_holds_everything_and_needs_nothing(report):
    folder, _ = report
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(PICTURES) + 1
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    text = html.unescape(page)
    for part in (
        "full has no finished run on heist.",
        "Not in the aggregates, since not every variant has a finished run there: heist.",
        '"partial late separation as a default"',
        "These runs had 300 frames",
        "Beside shared, late has 1.91 times the parameters, 1.00 times the multiply-adds, 1.00 times the training",
        "published IDAAC",
    ):
        assert part in text


def test_one_seed_each_gives_values_without_intervals(tmp_path):
    for separation, score in (("shared", 5.0), ("late", 6.0)):
        write_run(tmp_path / "runs", score, separation=separation)
    _, advice = made(tmp_path, repetitions=10)
    late = table(tmp_path / "out", "aggregates_by_ppo")[1]
    assert (float(late["IQM"]), late["IQM low"]) == (pytest.approx(1.2), "")
    assert "The seeds cannot tell it from shared" in advice.conclusion


def test_without_ppo_scores_are_by_range_alone(tmp_path):
    for separation, score in (("late", 6.0), ("early", 5.0)):
        write_run(tmp_path / "runs", score, separation=separation)
    page, _ = made(tmp_path, repetitions=10)
    assert not (tmp_path / "out" / "aggregates_by_ppo.csv").exists()
    assert "Not divided by PPO" in page.read_text()


def test_what_is_refused(tmp_path):
    write_run(tmp_path / "runs")
    write_run(tmp_path / "runs", protocol="as_written")
    with pytest.raises(ValueError, match=r"set protocol to one of \['as_written', 'controlled'\]"):
        made(tmp_path)
    write_run(tmp_path / "hard" / "runs", distribution_mode="hard")
    with pytest.raises(
        ValueError, match=r"distribution_mode of the runs must be easy, whose ranges .*; got \{'hard'\}"
    ):
        made(tmp_path / "hard")
    with pytest.raises(ValueError, match="runs must be a folder, a glob or a list of them; got None"):
        Report()
    with pytest.raises(ValueError, match="window must be a whole number, at least 1; got 0"):
        Report(runs="runs", window=0)


def test_what_an_earlier_report_alone_had_is_removed(tmp_path):
    for separation in ("shared", "late"):
        for seed in range(2):
            write_run(tmp_path / "runs", 5.0, separation=separation, seed=seed, epochs=1 + (separation == "late"))
    made(tmp_path, repetitions=10)
    optional = ("settings.csv", "settings.md", "aggregates_by_ppo.md", "figure_2_by_ppo.png")
    (tmp_path / "out" / "my_notes.md").write_text("mine")
    assert all((tmp_path / "out" / name).exists() for name in optional)
    for run in (tmp_path / "runs").rglob("result.json"):
        run.write_text(run.read_text().replace('"final/test_return": 5.0', '"final/test_return": -5.0'))
        settings = run.parent / "config.yaml"
        settings.write_text(settings.read_text().replace("epochs: 2", "epochs: 1"))
    made(tmp_path, repetitions=10)
    assert not any((tmp_path / "out" / name).exists() for name in optional)
    assert (tmp_path / "out" / "my_notes.md").exists() and (tmp_path / "out" / "figure_2_by_range.png").exists()


def test_damaged_and_failed_runs_are_listed_on_the_page_and_the_rest_is_reported(tmp_path):
    for separation, score in (("shared", 5.0), ("late", 6.0)):
        for seed in range(3):
            write_run(tmp_path / "runs", score, separation=separation, seed=seed)
    files = []
    for seed, what in enumerate(("truncated result", "bad cell", "broken settings", "no UTF-8 in the record")):
        files.append(damage(write_run(tmp_path / "runs", 99.0, seed=10 + seed, separation="late"), what))
    failed = write_run(tmp_path / "runs", 99.0, seed=20, separation="late")
    (failed / "result.json").write_text('{"frames": 300, "final/test_return": null}')
    (tmp_path / "runs" / "controlled" / "maze" / "late" / "seed30").mkdir()
    page = html.unescape(made(tmp_path, repetitions=10)[0].read_text())
    assert "Damaged, and left out: 5 of 12 runs." in page
    assert all(str(file) in page for file in [*files, "late/seed30 holds none of a run's files"])
    assert "late on maze, seed 20: failed after 300 frames" in page and "Failed: 1 of 7 runs." in page
    assert [row["late"] for row in table(tmp_path / "out", "scores")] == ["6.0"]


def test_runs_that_are_all_damaged_are_an_error_in_a_few_lines(tmp_path):
    file = damage(write_run(tmp_path / "runs"), "bad cell")
    ran = REPORT.run(tmp_path, "runs=runs")
    assert ran.returncode == 1 and "ValueError: runs must hold a run that can be read" in ran.stderr
    assert str(file.relative_to(tmp_path)) in ran.stderr and "Traceback" not in ran.stderr


def test_a_second_report_replaces_the_first(tmp_path):
    for separation, epochs in (("shared", 3), ("late", 1)):
        write_run(tmp_path / "runs", separation=separation, protocol="as_written", epochs=epochs)
    write_run(tmp_path / "runs")
    page = made(tmp_path, protocol="as_written", repetitions=10)[0].read_text()
    assert "1 of the runs found are of other protocols and left out: controlled." in page
    assert "The variants differ in more than where they separate" in page
    assert table(tmp_path / "out", "settings") == [{"setting": "epochs", "shared": "3", "late": "1"}]
    write_run(tmp_path / "runs", separation="shared")
    assert "2 of the runs found are of other protocols and left out: as_written." in (
        made(tmp_path, protocol="controlled", repetitions=10)[0].read_text()
    )


def test_no_game_in_common_is_said_with_what_there_is(tmp_path):
    write_run(tmp_path / "runs", separation="late", env="maze")
    write_run(tmp_path / "runs", separation="shared", env="heist")
    with pytest.raises(ValueError, match="must have a game that every variant has a finished run of") as error:
        made(tmp_path)
    assert "late has no finished run on heist." in str(error.value)


# ----------------------------------------------------------------------------------------------------------- a browser

# Put before everything else of the page; says after loading what went wrong. An error of a script, and a picture or
# script that cannot be loaded, both reach the window's listener when it listens while the event goes down.
PROBE = """<script>
const errors = [];
const text = event => event.message || "cannot load " + event.target.outerHTML.slice(0, 80);
addEventListener("error", event => errors.push(text(event)), true);
addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
addEventListener("load", () => {
  const images = [...document.images];
  document.documentElement.dataset.probe = JSON.stringify({
    images: images.length,
    missing: images.filter(image => !image.complete || !image.naturalWidth).map(image => image.alt),
    errors: errors,
    loaded: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:")),
  });
});
</script>"""


def opened(page, folder):
    """What a real browser finds wrong with a page: pictures that it cannot show, errors of scripts, what it fetched."""
    probed = folder / "probed.html"
    probed.write_text(page.replace("<head>", "<head>" + PROBE, 1))
    ran = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"),
            *("--virtual-time-budget=10000", "--dump-dom", probed.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'data-probe="([^"]*)"', ran.stdout)
    assert found, ran.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")
class TestInABrowser:
    """The page in headless Chromium, and that this test sees what it is to see."""

    def test_no_picture_is_missing_and_no_script_fails(self, report, tmp_path):
        found = opened((report[0] / "report.html").read_text(), tmp_path)
        assert found == {"images": len(PICTURES) + 1, "missing": [], "errors": [], "loaded": []}

    @pytest.mark.parametrize("source", ["missing.png", "data:image/png;base64,iVBORw0KGgo="])
    def test_a_planted_missing_picture_is_seen(self, report, tmp_path, source):
        page = (report[0] / "report.html").read_text()
        planted = re.sub(r'src="data:image/png;base64,[^"]*"', f'src="{source}"', page, count=1)
        found = opened(planted, tmp_path)
        assert found["missing"] == ["figure 2 by ppo"]
        assert len(found["errors"]) == 1

    def test_a_planted_script_error_is_seen(self, report, tmp_path):
        page = (report[0] / "report.html").read_text()
        found = opened(page.replace("</body>", "<script>drawEverything()</script></body>"), tmp_path)
        assert found["errors"] == ["Uncaught ReferenceError: drawEverything is not defined"]
        assert found["missing"] == []
