"""What an import may bring in: no optional package, and nothing from a room further up."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from decouple._moved import MOVED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

# Run in a fresh interpreter: prints a line for each module of its command line, the optional packages it asks for.
#
# sys.modules alone cannot tell, because TorchRL imports procgen and gym by itself where they are installed. So the
# optional packages are hidden, as on a machine without any extra, and each later request for one is written down.
ASKS_FOR = """
import importlib, importlib.machinery, sys

OPTIONAL = {
    *("arch", "envpool", "gym", "gym3", "gymnasium", "hydra", "matplotlib", "mujoco", "numba", "omegaconf"),
    *("opensimplex", "onnx", "onnxruntime", "onnxscript", "pandas", "procgen", "pygame", "rliable", "wandb"),
}
requests = set()

class WithoutExtras(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        package = name.partition(".")[0]
        if package not in OPTIONAL:
            return super().find_spec(name, path, target)
        requests.add(package)

sys.meta_path = [WithoutExtras if f is importlib.machinery.PathFinder else f for f in sys.meta_path]

for library in ("collectors", "data", "envs", "modules", "objectives", "record"):
    importlib.import_module("torchrl." + library)
assert not OPTIONAL & {name.partition(".")[0] for name in sys.modules}

for module in sys.argv[1:]:
    requests.clear()
    importlib.import_module(module)
    print(*sorted(requests))
"""


def asks_for(*modules: str, path: Path) -> dict[str, list[str]]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"}
    command = [sys.executable, "-c", ASKS_FOR, *modules]
    ran = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return {module: line.split() for module, line in zip(modules, ran.stdout.splitlines(), strict=True)}


def decouple_modules() -> list[str]:
    files = [file.relative_to(ROOT).with_suffix("") for file in sorted((ROOT / "decouple").rglob("*.py"))]
    modules = [".".join(file.parts).removesuffix(".__init__") for file in files]
    for registers in ("games.gymnasium_env", "control.forage_game"):  # imported for Gymnasium alone
        modules.remove(f"decouple.envs.{registers}")
    return modules


def test_no_module_of_decouple_but_commands_and_kernels_asks_for_an_optional_package(tmp_path):
    """And the check sees imports that are planted."""
    free = ("decouple.compiled.kernel", "decouple.compiled.memory", "decouple.compiled.threads")
    others = [name for name in decouple_modules() if not name.startswith(("decouple.commands", "decouple.compiled."))]
    lines = (
        "import wandb",
        "from procgen import ProcgenEnv",
        "import hydra",
        "import numba",
        "import matplotlib.pyplot",
    )
    planted = {f"planted_{line.split()[1].partition('.')[0]}": line for line in lines}
    for name, line in planted.items():
        (tmp_path / f"{name}.py").write_text(f"try:\n    {line}\nexcept ImportError:\n    pass\n")
    found = asks_for("decouple", *others, *free, *planted, path=tmp_path)
    assert {name: found.pop(name) for name in planted} == {name: [name.removeprefix("planted_")] for name in planted}
    assert not any(found.values()), found


AS_A_FILE = {  # public names of the files of version 0.1 whose name a room has taken
    "on_policy": ["ALGORITHMS", "OnPolicySettings", "daac_phases", "idaac_phases", "ppo_phases", "train_on_policy"],
    "off_policy": ["GreedyPolicy", "replay_for", "train_off_policy"],
    "envs.procgen": ["EpisodesInState", "ProcgenEnv", "distribution_modes", "procgen_env"],
    "envs.control": ["TASKS", "ControlEnv", "control_env"],
    "envs.games": ["GAMES", "GamesEnv", "games_env"],
    "envs.unity": ["UnityEnv", "unity_env"],
}


def rooms() -> list[str]:
    """Folders below decouple/."""
    faces = (ROOT / "decouple").rglob("__init__.py")
    return sorted(str(face.parent.relative_to(ROOT / "decouple")) for face in faces)[1:]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def contracts() -> list[dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_contributing_shows_the_floors_that_are_held():
    held = next(contract["layers"] for contract in contracts() if contract["id"] == "rooms")
    shown = re.findall(r"^    ([\w| ]+?)(?:  .*)?$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert shown[: len(held)] == held


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "decouple", tmp_path / "decouple", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_import_contracts_hold(copy):
    ran = lint_imports(copy)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def planted() -> list[tuple[str, str]]:
    """For each contract a file and an import that it refuses: the lowest layer imports the highest."""
    found = []
    for contract in contracts():
        if contract["type"] == "layers":
            (container,) = contract["containers"]
            low = contract["layers"][-1].split(" | ")[0] if len(contract["layers"]) > 1 else None
            above, *beside = contract["layers"][0].split(" | ")
            names = (low, above) if low else (above, beside[0])
            found.append((f"{container}.{names[0]}", f"{container}.{names[1]}"))
    return [
        *found,
        ("decouple.on_policy.losses", "hydra"),
        ("decouple.studies.separation.experiment", "omegaconf"),
        ("decouple.off_policy.learner", "numba"),
    ]


def test_each_import_contract_refuses_a_planted_import(copy):
    for file, imported in planted():
        path = copy / file.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        with path.open("a") as text:
            text.write(f"\nimport {imported}\n")
    ran = lint_imports(copy)
    said = " ".join(ran.stdout.split())
    assert ran.returncode != 0 and f" 0 kept, {len(contracts())} broken" in said, ran.stdout
    for file, imported in planted():
        importer = file if imported.startswith("decouple") else "decouple"
        assert f"{importer} is not allowed to import {imported}" in said, ran.stdout


def test_a_file_without_a_place_is_refused(copy):
    places = ["", *rooms()]
    for room in places:
        (copy / "decouple" / room / "utils.py").touch()
    ran = lint_imports(copy)
    assert ran.returncode != 0
    for room in places:
        name = ".".join(["decouple", *room.split("/"), "utils"]).replace("..", ".")
        assert re.search(rf"{name}\b", " ".join(ran.stdout.split())), (name, ran.stdout)


def old_paths() -> list[str]:
    return [f"decouple.{path}" for path in MOVED]


@pytest.mark.parametrize("path", old_paths())
def test_a_path_of_version_0_1_is_refused_with_the_new_one(path):
    modules = [f"decouple.{new}" for new in MOVED[path.removeprefix("decouple.")].split(" and ")]
    assert all(map(importlib.util.find_spec, modules))
    new = " and ".join(modules)
    parent, _, name = path.rpartition(".")
    lines = [f"import {path}", f"from {path} import anything"]
    if not hasattr(sys.modules.get(parent), name):  # decouple.actor_qvalue is a function as well
        lines.append(f"from {parent} import {name}")
    for line in lines:
        with pytest.raises(ImportError, match=rf"{path} is {new}\b.*since version 0\.2"):
            exec(line)


def test_a_module_that_was_split_points_to_all_that_have_its_names():
    names = "SACControl TD3Control PPOControl TRPOControl ControlSettings train_agents load_agents make_env run_result"
    modules = [importlib.import_module(f"decouple.{new}") for new in MOVED["control"].split(" and ")]
    assert all(any(hasattr(module, name) for module in modules) for name in names.split())


@pytest.mark.parametrize(("room", "names"), AS_A_FILE.items())
def test_a_file_of_version_0_1_that_is_a_room_now_has_the_names_that_it_had(room, names):
    face = importlib.import_module(f"decouple.{room}")
    assert set(names) <= set(face.__all__)
    for name in names:
        value = getattr(face, name)
        if home := getattr(value, "__module__", None):  # a table has none
            assert value is getattr(importlib.import_module(home), name)
