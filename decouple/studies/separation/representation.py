"""What policy and value networks have learned on Procgen, block by block, on training levels and on others.

    folder, text = analyse(Representation(checkpoint="runs/procgen/controlled/plunder/late/seed0", frames=1024))

The run is one of experiments/procgen.py: its folder, or its checkpoint. Writes one folder: `measures.csv`, `cka.csv`,
`representation.md` and pictures. `other`: a second run of the same game, whose features are compared with the first's
on the same frames. What each measure means: docs/representation.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from decouple.analysis.recording import record_episodes
from decouple.analysis.representation import (
    block_outputs,
    centred_gram,
    deal_episodes,
    distances,
    dormant_share,
    effective_rank,
    information_about_labels,
    linear_cka,
    linear_probes,
    mutual_information,
    perturbation_saliency,
)
from decouple.checks import POSITIVE_WHOLE, SEED, at_least, check_fields, check_setting, positive_whole
from decouple.networks.actor_value import ActorValue
from decouple.runs.checkpoint import CheckpointError, reading_checkpoint
from decouple.runs.files import csv_lines, markdown_lines, replace_file
from decouple.runs.finished import run_checkpoint
from decouple.runs.progress import StepProgress
from decouple.studies.separation.experiment import load_agent, make_env
from decouple.studies.separation.representation_pictures import draw_measures, draw_saliency, draw_similarity
from decouple.studies.separation.settings import ProcgenExperiment

__all__ = ["Representation", "analyse"]


@dataclass
class Representation:
    """Settings of the measurement: the run, and what is measured on it."""

    checkpoint: str | None = None  # a run's folder, or its checkpoint.pt; must be given
    other: str | None = None  # another run of the same game, to compare features with
    frames: int = 2048  # frames recorded on training levels, and as many on test levels
    episodes: int = 64  # episodes that these frames are drawn from, on training and on test levels each
    levels: int = 16  # number of levels of each kind: the first training levels, and the first after all of them
    tau: float = 0.025  # a unit below this share of its block's mean activity is dormant
    neighbours: int = 3  # nearest neighbours in the estimates of mutual information
    saliency_frames: int = 6  # frames shown in the picture of saliency
    seed: int = 0  # seed of levels, actions and random draws
    output: str | None = None  # output folder; None: representation in the run's folder

    def __post_init__(self) -> None:
        check_fields(self, tau=at_least(0), seed=SEED)
        check_setting("checkpoint", self.checkpoint, bool, "a run's folder, or its checkpoint")
        for name in ("frames", "episodes", "levels", "neighbours", "saliency_frames"):
            check_setting(name, getattr(self, name), POSITIVE_WHOLE)
        check_setting("frames", self.frames, lambda n: n >= self.episodes, f"at least episodes, {self.episodes}")
        check_setting("tau", self.tau, lambda value: value >= 0, "at least 0")


@dataclass
class Agent:
    """The agent in a checkpoint of experiments/procgen.py."""

    path: Path
    settings: ProcgenExperiment
    model: ActorValue
    frames: int  # frames of training


MEASURES = {  # column of the table -> its title in the picture
    "effective_rank": "effective rank",
    "dormant": "dormant units, share",
    "level_accuracy": "probe: level, share right",
    "return_r2": "probe: return, R²",
    "value_r2": "probe: own value, R²",
    "mi_level": "I(Z; level), nats",
    "mi_return": "I(Z; return), nats",
    "mi_next": "I(Z; Z'), nats",
    "mi_action": "I((Z, Z'); action), nats",
}


def load(name: str, given: str) -> Agent:
    """The agent of a run's folder or checkpoint."""
    path, state = run_checkpoint(given, name)
    settings = state.get("settings", {})
    check_setting(name, given, lambda _: "protocol" in settings, "a run of experiments/procgen.py")
    single = "of a run without a memory: features are measured of single frames"
    check_setting(name, settings.get("recurrent"), lambda recurrent: recurrent is None, single)
    with reading_checkpoint(path, "an agent of experiments/procgen.py"):
        return Agent(path, *load_agent(state))


def load_other(given: str | None) -> tuple[Agent | None, str | None]:
    """The agent to compare with, or None; where its run is damaged, None and the reason.

    Raises:
        FileNotFoundError: there is no such folder or file.
    """
    if not given:
        return None, None
    try:
        return load("other", given), None
    except (CheckpointError, FileNotFoundError) as error:
        if not Path(given).exists():
            raise
        return None, str(error)


def check_same_levels(agent: Agent, other: Agent) -> None:
    """Raise ValueError for another run that was not trained on the same levels of the same game."""
    for name in ("env", "distribution_mode", "start_level", "num_levels"):
        own, its = getattr(agent.settings, name), getattr(other.settings, name)
        check_setting("other", its, lambda value, own=own: value == own, f"a run with the checkpoint's {name}, {own}")


def levels_of(agent: Agent, levels: int) -> dict[str, tuple[int, int]]:
    """First level and number of levels of two sets: the first training levels, and as many right behind them all."""
    trained = agent.settings.num_levels
    check_setting(
        "checkpoint", trained, positive_whole, "of a run with num_levels, so that there are levels to test on"
    )
    count = min(levels, trained)
    return {"train": (agent.settings.start_level, count), "test": (agent.settings.start_level + trained, count)}


def record(
    config: Representation, agent: Agent, start: int, count: int, progress: Callable[[int, int], object]
) -> TensorDict:
    """Frames that the agent meets in its own play on these levels, with its values of them."""
    settings = dataclasses.replace(agent.settings, start_level=start, num_levels=count)
    torch.manual_seed(config.seed)
    games = make_env(settings, config.episodes, config.seed, test=False, training=False)
    with contextlib.closing(games) as env:
        recording = record_episodes(
            env,
            agent.model.get_policy_operator(),
            frames=config.frames,
            gamma=settings.learning.gamma,
            seed=config.seed,
            keys=["level_seed"],
            progress=progress,
        )
    with torch.no_grad():
        batches = recording.select("observation").split(256)
        values = [agent.model.get_value_operator()(batch)["state_value"] for batch in batches]
    return recording.set("value", torch.cat(values).squeeze(-1).double())


def block_names(model: ActorValue) -> list[str]:
    """Names for tables and pictures: `trunk 1`, `policy 2` ...; counted from 1, branches go on after the trunk."""
    own = {"policy": model.policy, "value": model.value}
    branches = [f"{part} {model.at + i + 1}" for part, blocks in own.items() for i in range(len(blocks))]
    return ["frame", *(f"trunk {index + 1}" for index in range(model.at)), *branches]


def outputs(model: ActorValue, frames: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and features: first the frames themselves, for comparison, then each block's output."""
    yield "frame", frames
    for branch, index, features in block_outputs(model, frames):
        yield f"{branch} {index + 1}", features


def measure(
    config: Representation, model: ActorValue, recording: TensorDict, progress: Callable[[int, int], object]
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """A row of measures for each block, and its centred Gram matrix over frames, for CKA."""
    level, blocks = recording["level_seed"], len(block_names(model))
    part = deal_episodes(recording["episode"], level, torch.Generator().manual_seed(config.seed))
    targets = {"level_accuracy": level, "return_r2": recording["return"], "value_r2": recording["value"]}
    of_return = distances(recording["return"].unsqueeze(-1))
    rows, grams = [], {}
    pairs = zip(outputs(model, recording["observation"]), outputs(model, recording["next_observation"]), strict=True)
    for done, ((name, features), (_, following)) in enumerate(pairs):
        progress(done, blocks)
        gram, of_features, of_next = centred_gram(features), distances(features), distances(following)
        rows.append(
            {
                "block": name,
                "features": features[0].numel(),
                "effective_rank": effective_rank(gram),
                **({} if name == "frame" else {"dormant": dormant_share(features, config.tau)}),
                **linear_probes(gram, part, targets),
                "mi_level": information_about_labels(of_features, level, config.neighbours),
                "mi_return": mutual_information(of_features, of_return, config.neighbours),
                "mi_next": mutual_information(of_features, of_next, config.neighbours),
                "mi_action": information_about_labels(
                    torch.hypot(of_features, of_next), recording["action"], config.neighbours
                ),
            }
        )
        grams[name] = gram.float()
    return rows, grams


def similarities(ours: dict[str, Tensor], others: dict[str, Tensor]) -> list[list[float]]:
    """Linear CKA of each of our blocks, a row, with each of the others, a column."""
    return [[linear_cka(a, b) for b in others.values()] for a in ours.values()]


def saliency(model: ActorValue, frames: Tensor, progress: Callable[[int, int], object]) -> dict[str, Tensor]:
    """Saliency maps (N, H, W) of the policy's log-probabilities and of the value."""

    def policy(batch: Tensor) -> Tensor:
        features = model.get_features(["policy_hidden"])(TensorDict(observation=batch, batch_size=len(batch)))
        return model.get_policy_head()[0](features)["logits"].log_softmax(-1)

    def value(batch: Tensor) -> Tensor:
        return model.get_value_operator()(TensorDict(observation=batch, batch_size=len(batch)))["state_value"]

    maps: dict[str, list[Tensor]] = {"policy": [], "value": []}
    for done, frame in enumerate(frames):
        progress(done, len(frames))
        for name, score in (("policy", policy), ("value", value)):
            maps[name].append(perturbation_saliency(score, frame))
    return {name: torch.stack(found) for name, found in maps.items()}


def chosen(recording: TensorDict, count: int) -> Tensor:
    """Frames for the picture, evenly spread over the recording."""
    return recording["observation"][torch.linspace(0, len(recording) - 1, count + 2)[1:-1].long()]


def analyse(config: Representation) -> tuple[Path, str]:
    """Record frames, measure, and write the folder; returns the folder and a summary."""
    agent = load("checkpoint", str(config.checkpoint))
    other, left_out = load_other(config.other)
    if other:
        check_same_levels(agent, other)
    sets = levels_of(agent, config.levels)
    folder = Path(config.output) if config.output else agent.path.with_name("representation")
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {}
    cka: dict[str, tuple[list[str], list[str], list[list[float]]]] = {}
    cka_other: dict[str, tuple[list[str], list[str], list[list[float]]]] = {}
    shown, counts = [], {}
    names = block_names(agent.model)
    with contextlib.closing(StepProgress()) as progress:

        def say(what: str) -> Callable[[int, int], object]:
            return lambda done, wanted: progress(what, done, wanted)

        for name, (start, count) in sets.items():
            recording = record(config, agent, start, count, say(f"playing {name} levels, episodes"))
            counts[name] = len(recording), len(recording["level_seed"].unique())
            rows[name], grams = measure(config, agent.model, recording, say(f"measuring on {name} frames, blocks"))
            cka[f"{name} frames"] = names, names, similarities(grams, grams)
            if other:
                say(f"comparing on {name} frames, runs")(1, 2)
                others = {key: centred_gram(x).float() for key, x in outputs(other.model, recording["observation"])}
                cka_other[f"{name} frames"] = names, list(others), similarities(grams, others)
            shown.append(chosen(recording, -(-config.saliency_frames // len(sets))))
        frames = torch.cat(shown)[: config.saliency_frames]
        maps = saliency(agent.model, frames, say("saliency, frames"))
    chance = {"level_accuracy": (1 / max(levels for _, levels in counts.values()), "chance")}
    draw_similarity(folder / "cka.png", cka)
    draw_measures(folder / "blocks.png", rows, MEASURES, chance)
    draw_saliency(
        folder / "saliency.png",
        frames,
        maps,
        [name for name, own in zip(sets, shown, strict=True) for _ in own][: len(frames)],
    )
    if other:
        draw_similarity(folder / "cka_other.png", cka_other, ("this run", "the other run"))
    else:
        (folder / "cka_other.png").unlink(missing_ok=True)  # picture of an earlier command
    write_tables(folder, rows, cka, cka_other)
    head = heading(agent, other, sets, counts, left_out)
    write_page(folder, head, rows, bool(other))
    return folder, summary(head, rows, cka)


def write_tables(folder: Path, rows: dict[str, list[dict[str, Any]]], cka: Any, cka_other: Any) -> None:
    """Write `measures.csv`, a line for each set of frames and block; and `cka.csv`, one for each pair of blocks."""
    columns = ["features", *MEASURES]
    lines = [["frames", "block", *columns]]
    for name, of_set in rows.items():
        lines += [[name, row["block"], *(repr(row[key]) if key in row else "" for key in columns)] for row in of_set]
    replace_file(folder / "measures.csv", csv_lines(lines))
    lines = [["frames", "block", "of", "with", "cka"]]
    for run, matrices in (("checkpoint", cka), ("other", cka_other)):
        for name, (ours, theirs, numbers) in matrices.items():
            for one, row in zip(ours, numbers, strict=True):
                pairs = zip(theirs, row, strict=True)
                lines += [[name.split()[0], one, run, another, repr(number)] for another, number in pairs]
    replace_file(folder / "cka.csv", csv_lines(lines))


def heading(agent: Agent, other: Agent | None, sets: Any, counts: Any, left_out: str | None = None) -> str:
    """Lines on what was measured, and on the run that was left out because it is damaged."""
    settings = agent.settings
    lines = [
        f"{settings.env}, separation {settings.separation} (k = {agent.model.at} of {settings.depth}), "
        f"protocol {settings.protocol}, seed {settings.seed}, {agent.frames:,} frames of training"
    ]
    for name, (start, count) in sets.items():
        frames, levels = counts[name]
        lines.append(
            f"{name}: {frames:,} frames of the agent's own play on {levels} levels of {start} to {start + count - 1}"
        )
    if other:
        lines.append(
            f"compared with {other.path.parent}, separation {other.settings.separation}, {other.frames:,} frames"
        )
    if left_out:
        lines.append(f"compared with no other run: the one given is damaged, and left out: {left_out}")
    return "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Measures of one set of frames, as a table in Markdown."""
    columns = ["features", *MEASURES]
    lines = [["block", *columns]]
    for row in rows:
        cells = [f"{row[key]:.3g}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in columns]
        lines.append([row["block"], *cells])
    return markdown_lines(lines)


def write_page(folder: Path, head: str, rows: dict[str, list[dict[str, Any]]], compared: bool) -> None:
    """Write `representation.md`: what was measured, the tables and the pictures."""
    lines = ["# What the branches learned", "", *(f"- {line}" for line in head.splitlines()), ""]
    lines += ["What each column means: docs/representation.md of decouple.", ""]
    for name, of_set in rows.items():
        lines += [f"## On {name} levels", "", table(of_set), ""]
    pictures = {
        "blocks.png": "Every measure, block by block",
        "cka.png": "Similarity of blocks (linear CKA)",
        **(
            {"cka_other.png": "Similarity with the other run's blocks: rows this run, columns the other"}
            if compared
            else {}
        ),
        "saliency.png": "What matters for policy and value on the same frames",
    }
    for file, says in pictures.items():
        lines += [f"## {says}", "", f"![{says}]({file})", ""]
    replace_file(folder / "representation.md", "\n".join(lines).encode())


def summary(head: str, rows: dict[str, list[dict[str, Any]]], cka: Any) -> str:
    """The last blocks of policy and value beside each other, as lines to read."""
    lines = [head, ""]
    for name, of_set in rows.items():
        last = {
            branch: [row for row in of_set if row["block"].split()[0] in ("trunk", branch)][-1]
            for branch in ("policy", "value")
        }
        names, _, numbers = cka[f"{name} frames"]
        similar = numbers[names.index(last["policy"]["block"])][names.index(last["value"]["block"])]
        lines.append(f"{f'last blocks, {name} frames':32}{last['policy']['block']:>12}{last['value']['block']:>12}")
        for key, says in MEASURES.items():
            lines.append(f"{says:32}" + "".join(f"{last[branch][key]:12.3f}" for branch in last))
        lines += [f"{'CKA between them':32}{similar:12.3f}", ""]
    return "\n".join(lines[:-1])
