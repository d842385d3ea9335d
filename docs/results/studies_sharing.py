"""Verdicts on the claims S1 to S8 of docs/studies/protocol.md, from the files in docs/results and from the networks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from studies_forage import larger_gap, returns, s6
from studies_procgen import s7
from studies_verdicts import CONFIRMED, NOT_RUN, OPEN, REFUTED, Verdict, rows_of
from torchrl.data import Categorical

from decouple.analysis.drawing import network_figure
from decouple.networks.actor_value import ActorValue, actor_value
from decouple.networks.blocks import impala_blocks
from decouple.networks.counting import multiply_adds, parameter_count
from decouple.networks.separation import separate
from decouple.runs.curves import save_figure

ROOT = Path(__file__).parent
VARIANTS = ("shared", "late", "early", "full")
FRAMES, SEEDS = 25_000_000, 5  # of the paper's runs
# Of the study's code, whose separated stages have attention: reference of protocol=as_released.
RELEASED = {"early": 1_242_384, "late": 1_199_088}


def model(variant: str, attention_from: int | None = None) -> ActorValue:
    """One of figure 1's four networks: an IMPALA-CNN for the policy and one for the value, separated."""
    blocks = [impala_blocks(attention_from=attention_from) for _ in range(2)]
    return actor_value(separate(*blocks, at=variant), Categorical(15))


def figure_1() -> None:
    """The paper's figure 1, drawn from the library's own networks."""
    path = ROOT / "separation" / "figure_1.png"
    save_figure(network_figure({variant: model(variant) for variant in VARIANTS}), path, 110)


def speeds() -> dict[str, float]:
    """Variant -> training frames per second, bfloat16, of the newest measurement that has all four."""
    by: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for row in rows_of(ROOT / "performance" / "procgen.csv", "env_steps_per_s"):
        if row["precision"] == "bf16" and row["contender"] in VARIANTS and row["width"] == "1":
            by[row["date"], row["commit"], row["load"]][row["contender"]] = float(row["env_steps_per_s"])
    whole = [of for _, of in sorted(by.items()) if set(of) == set(VARIANTS)]
    return whole[-1] if whole else {}


def whole_games() -> list[str]:
    """The games in which each variant has as many runs, as long, as the paper's."""
    done: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows_of(ROOT / "separation" / "curves.csv"):
        if int(row["frames"]) >= FRAMES:
            done[row["game"]][row["variant"]].add(row["seed"])
    return [game for game, of in done.items() if all(len(of[variant]) >= SEEDS for variant in VARIANTS)]


def of_sixteen() -> Verdict:
    return NOT_RUN, f"{len(whole_games())} of 16 games have {SEEDS} seeds of 25M frames"


def s4() -> Verdict:
    adds, speed = {variant: multiply_adds(model(variant))["total"] / 1e6 for variant in VARIANTS}, speeds()
    text = "million multiply-adds a frame: " + ", ".join(f"{v} {adds[v]:.1f}" for v in VARIANTS)
    if not speed:
        return NOT_RUN, text
    text += "; frames per second in training: " + ", ".join(f"{v} {speed[v]:.0f}" for v in VARIANTS)
    if adds["late"] >= adds["full"] or adds["early"] <= adds["late"]:
        return REFUTED, text
    return (CONFIRMED if speed["early"] < speed["late"] > speed["full"] else OPEN), text


def s8() -> Verdict:
    counts = {v: parameter_count(model(v, attention_from=at))["total"] for v, at in (("early", 1), ("late", 2))}
    text = "parameters with the released code's attention: " + ", ".join(
        f"{variant} {count:,} (released: {RELEASED[variant]:,})" for variant, count in counts.items()
    )
    return (CONFIRMED if counts == RELEASED else REFUTED), text


def without(runs: str) -> Callable[[], Verdict]:
    return lambda: (NOT_RUN, f"needs {runs}")


CLAIMS: dict[str, Callable[[], Verdict]] = {
    **{"S1": of_sixteen, "S2": of_sixteen, "S3": of_sixteen, "S4": s4},
    **{"S5": without("Procgen, reduced, with and without the head"), "S6": s6},
    **{"S7": lambda: s7(larger_gap(returns())), "S8": s8},
}
