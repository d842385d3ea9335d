"""docs/studies: its tables are what the stored results give, and each claim's verdict follows its rule."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from pathlib import Path

import pytest
from commands import composing

from decouple.commands.settings import settings_beside
from decouple.studies.actor_size.cell_files import KeptCell, read_cell_file
from decouple.studies.actor_size.search import SIZES
from decouple.studies.actor_size.smallest_actor import SearchSettings
from decouple.studies.actor_size.store import Cell
from decouple.studies.actor_size.workers import cell_of

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "results"))
import studies  # noqa: E402
import studies_cells as table  # noqa: E402
import studies_costs as costs  # noqa: E402
import studies_sharing as sharing  # noqa: E402
import studies_sizes as sizes  # noqa: E402
import studies_toy as toy  # noqa: E402
import studies_verdicts as verdicts  # noqa: E402
import toy_halfway  # noqa: E402

VERDICTS = {"confirmed", "refuted", "not decided", "not run"}


def kept(pair: table.Pair, returns: list[float], first: int = 0, **measures: float) -> KeptCell:
    actor, critic = pair
    of_seeds = {name: dict.fromkeys(range(first, first + 6), value) for name, value in measures.items()}
    found = {"return": dict(enumerate(returns, start=first)), **of_seeds}
    return KeptCell(Cell("a", "b", "{}", actor, critic), found, parameters=10 * (1 + SIZES.index(actor)))


def returns(key: tuple[str, str], accepted: bool, decided: bool = True) -> list[float]:
    """Returns of six seeds at the paper's threshold, or far below it, so that the interval supports the verdict; not
    decided: just above or below the bound, so that it does not.
    """
    threshold = table.PAPER[key]["threshold"]
    if not decided:
        bound = table.lower_bound(threshold)
        return [bound + abs(threshold) * (s + (0.01 if accepted else -0.01)) for s in (-0.5, -0.3, -0.1, 0.1, 0.3, 0.5)]
    return [threshold + abs(threshold) * (s - (0 if accepted else 5)) for s in (-0.02, -0.01, 0.0, 0.0, 0.01, 0.02)]


def cell(
    accepted: dict[table.Pair, bool], key: tuple[str, str] = ("pendulum", "td3"), undecided: tuple[table.Pair, ...] = ()
) -> table.TableCell:
    """A cell of the table with these pairs; of some the seeds do not support the verdict."""
    of_pairs = {pair: returns(key, yes, pair not in undecided) for pair, yes in accepted.items()}
    return table._cell(*key, {pair: kept(pair, values, value_bias=-20.0) for pair, values in of_pairs.items()})


def write_cell(path: Path, algorithm: str, settings: dict, pair: table.Pair, values: list[float]) -> None:
    """A file of `save_cells` with one pair on Pendulum."""
    measures = {"return": dict(enumerate(values)), "value_bias": dict.fromkeys(range(len(values)), 5.0)}
    row = {"actor": pair[0], "critic": pair[1], "measures": measures, "parameters": 6}
    row |= {"multiply_adds": 5, "seconds": 1.0, "version": None, "commit": None}
    path.write_text(json.dumps({"task": "pendulum", "algorithm": algorithm, "settings": settings, "cells": [row]}))


KEYS = [key for key in table.PAPER if key != ("foodcollector", "sac")]  # which is compared by another measure


def cells(accepted: dict[table.Pair, bool], count: int) -> dict[tuple[str, str], table.TableCell]:
    return {key: cell(accepted, key) for key in KEYS[:count]}


def searched(symmetric: int, actor: int) -> dict[table.Pair, bool]:
    """All pairs that a search asks for whose smallest pair and smallest actor are these indices of `SIZES`."""
    pairs = {(size, size): index >= symmetric for index, size in enumerate(SIZES)}
    return pairs | {(size, SIZES[symmetric]): index >= actor for index, size in enumerate(SIZES)}


def test_the_pages_are_what_the_stored_results_give(monkeypatch, capsys):
    """The page is written by `python docs/results/studies.py`."""
    monkeypatch.setattr(sys, "argv", ["studies.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        studies.main()
    assert ended.value.code == 0, capsys.readouterr().out


def test_a_page_that_says_something_else_is_seen_and_written_anew():
    page = "a\n<!-- one -->\n<!-- end -->\n## b\n<!-- two -->\nold\n<!-- end -->\n"
    text = studies.written(page, {"one": "1", "two": "2"})
    assert text == "a\n<!-- one -->\n1\n<!-- end -->\n## b\n<!-- two -->\n2\n<!-- end -->\n"
    assert studies.written(text, {"one": "1", "two": "2"}) == text != studies.written(text, {"one": "1", "two": "3"})


def test_every_claim_of_the_protocol_has_a_verdict_and_no_other():
    names = set(re.findall(r"^\| ([HS]\d+) \|", (ROOT / "docs" / "studies" / "protocol.md").read_text(), re.M))
    assert names | {"H16"} == {*sizes.CLAIMS, *sharing.CLAIMS}
    none = {name: claim({}) for name, claim in sizes.CLAIMS.items()}
    assert all(verdict in VERDICTS and text for verdict, text in none.values())
    of_table = ["H5", "H6", "H7", "H8", "H9", "H10", "H11", "H12", "H15", "H16"]
    assert {none[name][0] for name in of_table} == {"not run"}


def test_the_budgets_are_the_protocols():
    text = (ROOT / "docs" / "studies" / "protocol.md").read_text()
    for (task, algorithm), frames in table.BUDGETS.items():
        line = next(
            line for line in text.split("\n") if line.startswith("| ") and task[:5] in line.lower().replace(" ", "")
        )
        of_algorithm = re.findall(rf"{algorithm.upper()} ([\d,]+)", line) or re.findall(r"([\d,]{6,})", line)
        assert int(of_algorithm[0].rstrip(",").replace(",", "")) == frames, (task, algorithm)


# ----------------------------------------------------------------------------------------------------- Table I
def test_a_search_on_stored_cells_finds_what_is_there_and_names_what_is_not():
    whole = cell(searched(3, 1))
    assert whole.reached and table.state(whole) == "filled"
    found = whole.papers.found
    assert found is not None and found.symmetric is not None and found.asymmetric is not None
    assert (found.symmetric.actor, found.asymmetric.actor) == (SIZES[3], SIZES[1])
    assert table.reduction(whole, whole.papers) == pytest.approx(100 * (1 - 20 / 40))
    assert "|4,4| beside |16,16|, 50 % fewer" in table.sizes_text(whole, whole.papers)

    pairs = searched(3, 1)
    del pairs[(4, 4), (16, 16)]
    part = cell(pairs)
    assert part.papers.found is None and table.state(part) == "unfinished"
    assert "lacks actor |4,4| beside critic |16,16|" in table.sizes_text(part, part.papers)


def test_what_claims_still_ask_of_a_cell_is_named_until_it_is_stored():
    """Fresh seeds, a smaller critic, every larger critic beside a smaller actor, and the recipe's critics in turn."""
    pairs, beside = searched(3, 1), [(SIZES[0], SIZES[critic]) for critic in range(4, 9)]
    asked = sizes.further(cell(pairs))
    grown = (SIZES[3], SIZES[4])
    assert asked == [((SIZES[1], SIZES[3]), range(6, 12)), *(
        (pair, range(6)) for pair in ((SIZES[3], SIZES[2]), *beside, grown)
    )]  # fmt: skip

    pairs |= dict.fromkeys(((SIZES[3], SIZES[2]), *beside), False) | {grown: True}
    stored = {pair: kept(pair, returns(("pendulum", "td3"), yes)) for pair, yes in pairs.items()}
    again = SIZES[1], SIZES[3]
    fresh = kept(again, returns(("pendulum", "td3"), True), first=6).measures["return"]
    stored[again] = KeptCell(stored[again].cell, {"return": stored[again].measures["return"] | fresh}, 10)
    assert sizes.further(table._cell("pendulum", "td3", stored)) == []

    pairs[beside[0]] = True  # one larger critic that lets the smaller actor pass is enough
    del pairs[beside[1]]
    assert not {pair for pair, _ in sizes.further(cell(pairs))} & set(beside)


def test_a_mark_says_that_seeds_do_not_support_one_of_the_verdicts_that_make_the_outcome():
    pairs = searched(3, 1)
    whole = cell(pairs)
    assert table.sizes_text(whole, whole.papers).endswith("% fewer")
    for pair in ((SIZES[3], SIZES[3]), (SIZES[2], SIZES[2]), (SIZES[1], SIZES[3]), (SIZES[0], SIZES[3])):
        open_cell = cell(pairs, undecided=(pair,))
        assert table.sizes_text(open_cell, open_cell.papers).endswith("% fewer ?")
    far = cell(pairs, undecided=((SIZES[1], SIZES[1]),))
    assert not table.sizes_text(far, far.papers).endswith("?")


def test_a_baseline_that_misses_the_threshold_by_more_than_a_tenth_is_counted_apart():
    lost = cell({(size, size): False for size in SIZES})
    assert table.state(lost) == "baseline not reached" and not lost.reached
    assert sizes.finished({("pendulum", "td3"): lost}) == {}
    alone = cell({lost.baseline: False})  # no search is asked for, nor is one needed
    assert table.state(alone) == "baseline not reached" and table.sizes_text(alone, alone.ours) == "not searched"
    assert table.state(cell({lost.baseline: True})) == "unfinished"
    assert re.fullmatch(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]", table.baseline_text(alone))
    assert table.baseline_text(cell({((1, 1), (1, 1)): True})) == ""


def test_what_the_page_says_of_other_settings_on_acrobot_is_in_their_file():
    """Six agents of each, and how many of them learned what."""
    with open(ROOT / "docs" / "results" / "honey" / "acrobot_sac_settings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    learned: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        assert (row["frames"], row["actor"], row["critic"]) == ("100000", "32,32", "32,32")
        learned.setdefault((row["setting"], row["value"]), [])
        if row["return"] != "-500.0":
            learned[row["setting"], row["value"]].append(f"{float(row['return']):.0f}")
    assert [row["seed"] for row in rows] == list("012345") * 3
    assert learned == {("alpha", "0.2"): [], ("alpha", "0.05"): ["-86"], ("target_entropy", "0.1"): ["-83"]}
    page = " ".join((ROOT / "docs" / "studies" / "honey.md").read_text().split())
    assert "fixed temperature of .2 all end at -500; with a fixed one of .05 one agent reaches -86" in page
    assert "with a target entropy of .1 one reaches -83, beside five at -500" in page


def test_a_file_of_another_length_is_not_in_the_table(tmp_path):
    for frames, aggregation in ((100_000, "min"), (99_999, "min"), (100_000, "mean")):
        settings = {"total_frames": frames, "target_aggregation": aggregation}
        (tmp_path / "file.json").write_text(json.dumps({"settings": settings, "cells": []}))
        assert table.as_published(tmp_path / "file.json", 100_000) == (frames == 100_000 and aggregation == "min")


def test_two_files_of_one_cell_differ_in_a_setting_and_are_refused(tmp_path):
    for name, rate in (("a", 0.001), ("b", 0.5)):
        settings = {"total_frames": table.BUDGETS["pendulum", "sac"], "learning_rate": rate}
        write_cell(tmp_path / f"{name}.json", "sac", settings, ((1, 1), (1, 1)), [1.0])
    with pytest.raises(ValueError, match=r"b\.json must not hold .* with the protocol's budget: .*a\.json does"):
        table.read_table(tmp_path)
    write_cell(tmp_path / "b.json", "sac", {}, ((1, 1), (1, 1)), [1.0])
    with pytest.raises(ValueError, match=r"b\.json must have total_frames among its settings"):
        table.read_table(tmp_path)


@pytest.mark.parametrize("path", sorted((table.HERE / "cells").glob("*.json")), ids=lambda path: path.stem)
def test_stored_cells_have_the_settings_of_the_commands_that_the_page_prints(path):
    settings, cell = json.loads(path.read_text())["settings"], read_cell_file(path)[0].cell
    with composing("smallest_actor") as configuration:
        words = f"env={cell.task}", f"algorithm={cell.algorithm}", f"total_frames={settings['total_frames']}"
        _, composed = settings_beside("search", SearchSettings, configuration(*words), None)
    varied = {name: settings[name] for name in ("target_aggregation", "held_out_every") if name in settings}
    assert settings == json.loads(cell_of(composed).settings) | varied


def test_a_damaged_table_is_named_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_text("seed,dormant\n0,0.5\n1,x\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 3: dormant must be a number; got 'x'"):
        verdicts.rows_of(tmp_path / "a.csv", "dormant")
    (tmp_path / "a.csv").write_text("seed,dormant\n0,0.5\n1")
    with pytest.raises(ValueError, match=r"a\.csv, line 3: must have a cell for each of the columns"):
        verdicts.rows_of(tmp_path / "a.csv", "dormant")
    assert verdicts.rows_of(tmp_path / "none.csv", "dormant") == []


def test_failed_seeds_of_a_baseline_are_told_with_the_cells_name():
    made = {pair: kept(pair, returns(("pendulum", "td3"), yes)) for pair, yes in searched(3, 1).items()}
    baseline = (table.PAPER["pendulum", "td3"]["baseline_size"],) * 2
    made[baseline] = kept(baseline, [-math.inf] * 6)
    with pytest.raises(ValueError, match="pendulum, TD3: the baseline's returns must be finite"):
        table._cell("pendulum", "td3", made)


def test_an_unknown_option_writes_nothing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["studies.py", "--chek"])
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("a page was written"))
    with pytest.raises(SystemExit) as ended:
        studies.main()
    assert ended.value.code == 2


def test_pairs_are_an_argument_that_gives_them_back():
    with composing("smallest_actor") as configuration:
        composed = configuration(studies.pairs_text([((4, 4), (128, 128)), ((), (400, 300))]))
    assert composed.search.pairs == [[[4, 4], [128, 128]], [[], [400, 300]]]


def test_what_is_missing_is_a_command_that_composes():
    commands = studies.missing()
    assert commands and all(line.startswith("python experiments/smallest_actor.py env=") for line in commands)
    with composing("smallest_actor") as configuration:
        composed = configuration(*commands[0].split()[2:])
    assert (composed.env, composed.search.threshold) in [(task, "baseline") for task, _ in table.PAPER]
    assert composed.search.results == "docs/results/honey/cells"


# ------------------------------------------------------------------------------------------------------ claims
def test_a_smaller_critic_that_will_do_refutes_that_no_actor_is_larger():
    beside_smaller = SIZES[3], SIZES[2]
    assert sizes.h7(cells(searched(3, 1) | {beside_smaller: True}, 1))[0] == "refuted"
    assert sizes.h7(cells(searched(3, 1) | {beside_smaller: False}, 1))[0] == "not run"  # of one cell
    assert sizes.h7(cells(searched(3, 1) | {beside_smaller: False}, 8))[0] == "confirmed"


def test_each_part_of_h9_is_judged_by_itself():
    def found(pendulum, acrobot, unknown=()):
        """Indices of the smallest pair of PPO, where SAC, TD3 and DDPG have 3; of tasks whose seeds do not tell."""
        made = {}
        for (task, algorithm), index in {("pendulum", "ppo"): pendulum, ("acrobot", "ppo"): acrobot}.items():
            for other in (algorithm, *(("sac", "td3", "ddpg") if task == "pendulum" else ("sac",))):
                pairs = searched(index if other == algorithm else 3, 1)
                open_pairs = tuple(pairs) if task in unknown else ()
                made[task, other] = cell(pairs, (task, other), open_pairs)
        return sizes.h9(made)[0]

    assert found(4, 2) == "confirmed" and found(3, 2) == found(4, 3) == found(2, 5) == "refuted"
    assert found(4, 2, ["acrobot"]) == found(4, 2, ["pendulum"]) == "not decided"
    assert found(3, 2, ["acrobot"]) == "refuted" and found(3, 2, ["pendulum"]) == "not decided"


def test_one_algorithm_that_needs_no_smaller_pair_than_ppo_refutes_h9_without_the_others():
    """PPO's pair is enough at one size, and the other's is not there, whatever the next larger ones do."""
    ppo, sac = (cell(searched(index, 1), ("pendulum", name)) for index, name in ((1, "ppo"), (3, "sac")))
    found = sizes.h9({("pendulum", "ppo"): ppo, ("pendulum", "sac"): sac})
    assert found == (
        "refuted",
        "pendulum: PPO learns with |4,4|, SAC not with |8,8|, supported "
        "(pendulum lacks DDPG, TD3; acrobot lacks PPO, SAC)",
    )
    for unknown in ((SIZES[2], SIZES[2]), (SIZES[3], SIZES[3])):  # |8,8| or |16,16|: another size tells
        known = cell(searched(3, 1), ("pendulum", "sac"), (unknown,))
        assert sizes.h9({("pendulum", "ppo"): ppo, ("pendulum", "sac"): known})[0] == "refuted"
    smaller = cell(searched(0, 0), ("pendulum", "sac"))
    assert sizes.h9({("pendulum", "ppo"): ppo, ("pendulum", "sac"): smaller})[0] == "not run"
    assert sizes.h9({("pendulum", "sac"): sac})[0] == "not run"


@pytest.mark.parametrize(("accepted", "verdict"), [(True, "confirmed"), (False, "refuted")])
def test_a_larger_critic_that_lets_a_smaller_actor_pass(accepted, verdict):
    extra = {(SIZES[0], critic): accepted for critic in SIZES[4:]}
    assert sizes.h10(cells(searched(3, 1) | extra, 4))[0] == verdict
    assert sizes.h10(cells(searched(3, 1), 4))[0] == "not run"
    open_cells = {key: cell(searched(3, 1) | extra, key, tuple(extra)) for key in KEYS[:4]}
    assert sizes.h10(open_cells)[0] == "not decided"


def test_the_recipe_is_held_to_the_papers_procedure():
    """The critic stays, since the next larger one gains nothing; its actors are the search's."""
    assert sizes.h11(cells(searched(3, 1), 4))[0] == "not run"
    found = sizes.h11(cells(searched(3, 1) | {(SIZES[3], SIZES[4]): True}, 4))
    assert found == ("not decided", "the recipe's actor is smaller in 0, larger in 0 of 4 cells; p = 1")


def test_a_recipe_that_ends_with_smaller_actors_needs_a_test_over_cells():
    """The next larger critic gains a tenth of the threshold, and beside it a smaller actor passes."""
    made = cells(searched(3, 1) | {(SIZES[actor], SIZES[4]): True for actor in (0, 1)}, 6)
    for key, one in made.items():
        grown = [value + 0.1 * abs(one.threshold) for value in returns(key, True)]
        more = {(SIZES[3], SIZES[critic]): kept((SIZES[3], SIZES[critic]), grown) for critic in (4, 5)}
        made[key] = table._cell(*key, {**one.kept, **more})
    assert sizes.h11(made)[0] == "confirmed"
    assert sizes.h11(dict(list(made.items())[:5]))[0] == "not decided"  # p = 0.06


@pytest.mark.parametrize(("of_critics", "of_actors", "verdict"), [(9.0, 1.0, "confirmed"), (1.0, 9.0, "refuted")])
def test_the_value_loss_is_compared_over_critics_and_actors(of_critics, of_actors, verdict):
    made = {}
    for key in [key for key in KEYS if key[1] != "ppo"][:4]:
        pairs = searched(3, 1)
        losses = {
            (a, c): 1 + of_critics * (a == c) * (SIZES.index(c) - 3) + of_actors * (c == SIZES[3] and a != c)
            for a, c in pairs
        }
        filled = {pair: kept(pair, returns(key, yes), value_loss=losses[pair]) for pair, yes in pairs.items()}
        made[key] = table._cell(*key, filled)
    assert sizes.h12(made)[0] == verdict


def test_fresh_seeds_are_those_after_the_searchs():
    made, pair = cells(searched(3, 1), 10), (SIZES[1], SIZES[3])
    for key, one in made.items():
        both = one.kept[pair].measures["return"] | kept(pair, returns(key, False), first=6).measures["return"]
        filled = {**one.kept, pair: KeptCell(one.kept[pair].cell, {"return": both}, parameters=20)}
        made[key] = table.TableCell(*key, filled, one.ours, one.papers)
    assert sizes.h15(made)[0] == "refuted"
    assert sizes.h15(dict(list(made.items())[:1]))[0] == "not run"  # one cell decides nothing, and is told
    assert sizes.h15(cells(searched(3, 1), 10))[0] == "not run"


def test_ppo_is_further_off_where_it_is():
    tasks = ("pendulum", "reacher", "halfcheetah", "ant")
    of_tasks = [key for key in KEYS if key[0] in tasks]
    far = {key: cell(searched(3, 3 if key[1] == "ppo" else 1), key) for key in of_tasks}
    assert sizes.h8(far)[0] == "confirmed"
    assert sizes.h8({key: cell(searched(3, 1), key) for key in of_tasks})[0] == "refuted"
    assert sizes.h8({key: one for key, one in far.items() if key[0] != "ant"})[0] == "not run"
    near = {key: cell(searched(3, 1), key) for key in of_tasks if key[0] in ("pendulum", "reacher")}
    assert sizes.h8(far | near)[0] == "not decided"  # further off on two of four


def test_a_task_of_which_no_actor_can_be_smaller_refutes_that_every_task_has_one():
    of_task = {key: cell(searched(3, 3), key) for key in KEYS if key[0] == "pixelcopter"}
    assert sizes.h5(of_task)[0] == "refuted"
    half = dict(list(of_task.items())[:1])
    assert sizes.h5(half)[0] == "not run"
    assert sizes.h5(of_task | {KEYS[0]: cell(searched(3, 1), KEYS[0])}) == (
        "refuted",
        "of 8 tasks with a smaller actor: pendulum; all cells run, and none: pixelcopter; supported: pixelcopter",
    )
    for key, one in of_task.items():  # every decision that makes the actor the smallest must be supported
        for pair in ((SIZES[3], SIZES[3]), (SIZES[2], SIZES[2]), (SIZES[2], SIZES[3])):
            assert sizes.h5(of_task | {key: cell(searched(3, 3), key, (pair,))})[0] == "not run", (one.name, pair)


def test_every_task_with_one_smaller_actor_that_seeds_support_confirms_it():
    every = {key: cell(searched(3, 1), key) for key in table.PAPER if key != ("foodcollector", "sac")}
    values = {pair: returns(("foodcollector", "sac"), yes) for pair, yes in searched(3, 1).items()}
    measures = {pair: {"return": dict(enumerate(of)), "maximum": dict(enumerate(of))} for pair, of in values.items()}
    at_best = {pair: KeptCell(kept(pair, values[pair]).cell, measures[pair], 10) for pair in values}
    every["foodcollector", "sac"] = table._cell("foodcollector", "sac", at_best)
    assert sizes.h5(every)[0] == "confirmed"
    doubtful = {key: cell(searched(3, 1), key, ((SIZES[1], SIZES[3]),)) for key in every if key[0] == "ant"}
    assert sizes.h5(every | doubtful)[0] == "not decided"
    assert sizes.h5(every | dict(list(doubtful.items())[:2]))[0] == "confirmed"  # one of the task's three is enough


def test_a_failed_seed_counts_as_failed_where_the_best_in_training_counts():
    pair = SIZES[1], SIZES[3]
    measures = {"return": dict(enumerate([-math.inf, *[1.0] * 5])), "maximum": dict.fromkeys(range(1, 6), 70.0)}
    made = table._cell("foodcollector", "sac", {pair: KeptCell(kept(pair, [1.0] * 6).cell, measures, 10)})
    assert made.returns(pair) == [-math.inf, *[70.0] * 5]


def test_the_mean_reduction_needs_fifteen_cells():
    assert sizes.h6(cells(searched(3, 1), 14))[0] == "not run"
    verdict, text = sizes.h6(cells(searched(3, 1), 15))  # from 40 to 20 parameters
    assert verdict == "refuted" and text.startswith("mean 50 % [50, 50], largest 50 %")


def test_the_sign_test_is_binomial():
    assert verdicts.sign_test(6, 0) == pytest.approx(2 / 64) and verdicts.sign_test(3, 3) == 1.0
    assert verdicts.sign_test(8, 1) == pytest.approx(2 * (9 + 1) / 512)
    low, high = sizes.bootstrap([70.0, 80.0, 90.0])
    assert 70 <= low < 80 < high <= 90 and math.isclose(low, sizes.bootstrap([70.0, 80.0, 90.0])[0])


def test_half_ways_are_as_the_protocol_defines_them(tmp_path):
    frames = [float(at) for at in range(10, 210, 10)]
    returns = [-100.0] * 10 + [0.0] * 10  # the mean of five rows is half-way in the third row of the new level
    assert toy_halfway.return_half_way(frames, returns) == 130.0
    losses = [1.0] * 4 + [100.0] * 4 + [1.0] * 12  # the median of five rows, three of which are low again
    assert toy_halfway.loss_half_way(frames, losses) == 110.0
    assert toy_halfway.loss_half_way(frames, [1.0] * 20) is None  # nothing falls
    assert toy_halfway.return_half_way(frames, [math.nan] * 20) is None

    run = tmp_path / "ddpg"
    run.mkdir()
    (tmp_path / "agents.csv").write_text(
        "algorithm,pair,seed,start,return,learned\n"
        'ddpg,"a |1|, c |16,16,1|",0,-100,-1,true\nddpg,"a |1|, c |16,16,1|",1,-100,-90,false\n'
    )
    (run / "config.yaml").write_text("{algorithm: ddpg, actor: [], critic: [16, 16], seed: 0, seeds: 2}")
    names = [f"{name}/seed{seed}" for name in ("loss/critic", "train/episode_return") for seed in (0, 1)]
    lines = [f"{int(at)},{loss},{loss},{back},{back}" for at, loss, back in zip(frames, losses, returns, strict=True)]
    (run / "metrics.csv").write_text("\n".join([",".join(["frames", *names]), *lines]) + "\n")
    row = {"algorithm": "ddpg", "pair": "a |1|, c |16,16,1|", "seed": 0, "value_loss": 110.0, "return": 130.0}
    assert toy_halfway.half_ways(tmp_path) == [row]


def test_the_mean_of_two_critics_needs_both_algorithms(tmp_path, monkeypatch):
    """H16: failing sizes of TD3 and of SAC, trained with the mean; one of them alone decides nothing."""
    folder, pair = tmp_path / "honey" / "cells", ((1, 1), (16, 16))
    folder.mkdir(parents=True)
    monkeypatch.setattr(sizes, "ROOT", tmp_path)
    made = {("pendulum", name): cell({pair: False}, ("pendulum", name)) for name in ("sac", "td3")}
    assert sizes.h16(made)[0] == "not run"
    for name, verdict in (("sac", "not run"), ("td3", "confirmed")):
        settings = {"target_aggregation": "mean", "total_frames": table.BUDGETS["pendulum", name]}
        write_cell(folder / f"pendulum_{name}_a.json", name, settings, pair, returns(("pendulum", name), True))
        assert sizes.h16(made)[0] == verdict
    told = "|1,1|: -160 with a bias of +5 by the mean, -960 with a bias of -20 by the minimum, probability of "
    assert sizes.h16(made)[1].count(f"{told}improvement 1.00") == 2


def test_the_toy_needs_six_agents_of_each_algorithm(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "ROOT", tmp_path)
    (tmp_path / "toy").mkdir()
    claims = {"h1": "not run", "h2": "not run", "h3": "not run"}
    assert {name: getattr(toy, name)({})[0] for name in claims} == claims
    rows = [
        f'{algorithm},"{pair}",{seed},-100,-5,{"false" if name == "h1" else "true"}'
        for algorithm in toy.ALGORITHMS
        for name, pair in toy.TOY_PAIRS.items()
        for seed in range(6)
    ]
    head = "algorithm,pair,seed,start,return,learned"
    path = tmp_path / "toy" / "agents.csv"
    path.write_text("\n".join([head, *rows]))
    assert [getattr(toy, name)({})[0] for name in claims] == ["confirmed", "refuted", "confirmed"]
    path.write_text("\n".join([head, *(row for row in rows if not row.startswith("trpo"))]))
    assert {name: getattr(toy, name)({})[0] for name in claims} == claims
    path.write_text("\n".join([head, *rows[:-1]]))  # an agent less
    assert toy.h3({})[0] == "not run"
    path.write_text("\n".join([head, *rows]).replace("true", "True"))
    with pytest.raises(ValueError, match=r"learned must be true or false; got \{'True'\}"):
        toy.h2({})


def test_latencies_of_every_finished_cell_decide_what_small_actors_save(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "ROOT", tmp_path)
    (tmp_path / "honey").mkdir()
    made = cells(searched(3, 1), 3)
    assert costs.h13(made) == ("not run", "0 of at least 3 finished cells have their latencies")
    for factor, verdict in ((0.4, "confirmed"), (0.6, "refuted")):
        lines = ["task,algorithm,settings,actor,runtime,batch,median_us,p99_us,calls,measured_utc,platform"]
        for task, algorithm in made:
            large = table.PAPER[task, algorithm]["baseline_size"]
            for size, us in ((SIZES[1], 10 * factor), (large, 10.0)):
                name = ",".join(map(str, size))
                lines.append(f'{task},{algorithm},a,"{name}",onnx,1,{us},{us},9,2026-11-30T00:00:00+00:00,Linux')
        (tmp_path / "honey" / "latency.csv").write_text("\n".join(lines) + "\n")
        assert costs.h13(made)[0] == verdict
    (tmp_path / "honey" / "latency.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert costs.h13(made)[0] == "not run"


def test_the_training_time_needs_every_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "ROOT", tmp_path)
    (tmp_path / "honey").mkdir()
    assert costs.h14({})[0] == "not run"
    keys = list(table.PAPER)
    both = ("batched", "compiled")
    whole = ((keys, both, 0.5, "confirmed"), (keys, both, 0.9, "refuted"))
    for of, updates, smallest, verdict in ((keys[:1], both, 0.5, "not run"), (keys, both[1:], 0.5, "not run"), *whole):
        for frames, rounds, found in ((600, 5, verdict), (599, 5, "not run"), (600, 4, "not run")):
            rest = f"{frames},{rounds},2.0,2.0,1.0,1.0,{smallest},{smallest}"
            lines = [f"{task},{algorithm},{update},{rest}" for task, algorithm in of for update in updates]
            heads = ["task", "algorithm", "update", "frames", *costs.NUMBERS]
            (tmp_path / "honey" / "training_time.csv").write_text("\n".join([",".join(heads), *lines]))
            assert costs.h14({})[0] == found
            shown = costs.training_times().split("\n\n")[0].splitlines()
            assert len(shown) == 2 + len(lines) * (frames >= 600 and rounds >= 5)
    row = "| pendulum, DDPG | PyTorch | 3,704 (3,704) | 1,852 (1,852) | 1,667 (1,667) | 10 % | 55 % |"
    text = "\n".join([",".join(heads), lines[0].replace(",600,4,", ",600,5,")])
    (tmp_path / "honey" / "training_time.csv").write_text(text)
    assert costs.training_times().splitlines()[2:] == [row]


def test_times_of_equal_pairs_are_noise_and_save_nothing(tmp_path, monkeypatch):
    """The paper has |128,128| beside |128,128| on Pendulum with PPO, as the smallest pair and as the smallest actor."""
    monkeypatch.setattr(costs, "ROOT", tmp_path)
    (tmp_path / "honey").mkdir()
    lines = ["task,algorithm,update,frames," + ",".join(costs.NUMBERS)]
    for task, algorithm in table.PAPER:
        smallest = 0.1 if (task, algorithm) == ("pendulum", "ppo") else 0.9
        lines += [f"{task},{algorithm},{u},2000,5,2,2,1,1,{smallest},{smallest}" for u in ("batched", "compiled")]
    (tmp_path / "honey" / "training_time.csv").write_text("\n".join(lines))
    verdict, number = costs.h14({})
    assert verdict == "refuted" and number.startswith("largest saving 10 %")
    text = costs.training_times()
    assert "| pendulum, PPO | PyTorch | 1,111 (1,111) | 556 (556) | 56 (56) | equal | 95 % |" in text
    assert text.endswith("Times of equal pairs differ by up to 900 %, which is noise.")
