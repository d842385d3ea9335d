"""What is wrong with a command, in a line: the setting by its name, what it must be, and what came.

    says = what_is_wrong(error, command)  # None: a bug, whose trace helps more

Hydra and OmegaConf speak of their own classes; here the user's setting is named instead.
"""

from __future__ import annotations

import contextlib
import io
import re
import sqlite3
import sys
import traceback
from collections.abc import Callable

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from decouple.commands.folders import CONFIGS
from decouple.commands.help import PARTS, help_text
from decouple.commands.task_names import SCHEME
from decouple.deploy.checking import RefusedFileError
from decouple.envs.control.catalogue import did_you_mean
from decouple.runs.checkpoint import CheckpointError
from decouple.runs.finite import NotFiniteError
from decouple.studies.actor_size.engines import CellError

__all__ = ["readable", "what_is_wrong"]

# What OmegaConf says of a value of another kind than its setting's, and under it the value -> what the setting must be.
# The value is part of most of its sentences: hence where each begins or ends.
OF_ANOTHER_KIND = {
    r"\AInvalid \w+ assigned: \S+ is not a ListConfig": "a list{example}",
    r" could not be converted to Integer\n": "a whole number",
    r" could not be converted to Float\n": "a number",
    r" is incompatible with type hint 'int'\n": "of whole numbers",
    r" is not a valid bool \(type \w+\)\n": "true or false",
    r"\ACannot assign |\ACannot merge \w+ with ListConfig\n\[": "names with values, as {setting}={{name: value}}",
    r"\ACannot merge ": "a list",
    r"\ACannot convert '\w+' to string: ": "text",
    r" is not Optional\n": "a value, not null",
}
EXAMPLES = {
    "actor": "[64,64]",
    "critic": "[64,64]",
    "search.sizes": "[[4,4],[16,16]]",
    "search.pairs": "[[[4,4],[16,16]]]",
}
WORDS_OF_OPTIONS = ("job", "hydra", "all", "defaults", "defaults-tree", "config", "plugins", "searchpath")  # --cfg job


def readable(argument: str) -> bool:
    """Whether Hydra's grammar allows the argument: https://hydra.cc/docs/1.3/advanced/override_grammar/basic."""
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def what_is_wrong(error: Exception, command: Callable[[], object]) -> str | None:
    """The message for the user, if the error is about the command or the run's folder; None for a bug."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, HydraException):
        settings = (argument for argument in sys.argv[1:] if "=" in argument or argument not in WORDS_OF_OPTIONS)
        unread = [argument for argument in settings if not argument.startswith("-") and not readable(argument)]
        if unread:
            says = """an argument must be setting=value; quotes within quotes keep a value as text: run_dir="'a=b'\""""
            return f"ValueError: {' '.join(unread)} cannot be read ({text.splitlines()[0]}); {says}"
        if ambiguous := re.search(r"Ambiguous value for argument '([^=]+)=(.*?)' 1\. ", " ".join(text.split())):
            setting, given = ambiguous.groups()
            if setting in EXAMPLES:
                return f"ValueError: {setting} must be a list, as {setting}={EXAMPLES[setting]}; got {given}"
            says = "--multirun runs one after another; a list stands in brackets"
            return f"ValueError: {setting} must be one value; got {given} ({says})"
        if swept := re.search(r"Sweep parameters '([^'=]+)=(.*)' requires --multirun", text):
            return f"ValueError: {swept[1]} must be one value; got {swept[2]} (--multirun runs one after another)"
        no_page = "Error resolving interpolation" in text or re.search(r"Could not find '\w+/'", text)
        if no_page and (says := no_name_of_a_page(sys.argv[1:], command)):
            return says
        because = str(error.__cause__).splitlines()[0] if isinstance(error.__cause__, OmegaConfBaseException) else ""
        what = " ".join(text.partition("Config search path:")[0].split())  # on one line, without where Hydra looked
        option = re.search(r"Could not find '(?:env|algorithm)/([^']*)'", text)
        known = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        near = did_you_mean(option[1], known, ids=f"{SCHEME}://" in text) if option else ""
        if setting := re.search(r"Could not override '([^']*)'", text):  # nothing can be appended: refuse_added
            what = re.sub(r"\. To append to your config use \S+", "", what)
            settings = settings_known(command)
            of_task = f" (an argument of the task is set by 'env_kwargs={{{setting[1]}: ...}}')"
            of_part = [whole for whole in settings if whole.endswith(f".{setting[1]}")]  # sizes: search.sizes
            near = f" (did you mean {of_part[0]}?)" if of_part else did_you_mean(setting[1], settings, ids=False)
            near = near or ("env_kwargs" in settings) * of_task
        if given := re.search(r"Error merging override \+*([^=\s]+)=(.*)", what):
            said = f"{because}\n{given[2]}"
            must_be = (says for about, says in OF_ANOTHER_KIND.items() if re.search(about, said))
            if says := next(must_be, None):
                part = str(getattr(error.__cause__, "full_key", "") or given[1])  # actor[1] of actor=[64,a]
                got = given[2] if part == given[1] else f"{given[1]}={given[2]}"
                example = f", as {given[1]}={EXAMPLES[given[1]]}" if given[1] in EXAMPLES else ""
                return f"ValueError: {part} must be {says.format(setting=given[1], example=example)}; got {got}"
        return f"{name}: {what}{near}" + f": {because}" * bool(because)
    if isinstance(error, OmegaConfBaseException):
        what = " ".join(text.splitlines()[:1])
        return f"{name}: {error.full_key}: {what}" if error.full_key else f"{name}: {what}"
    if any(frame.name == "load_configuration" for frame in traceback.extract_tb(error.__traceback__)):
        wrong = culprits(command)  # Hydra could not compose them
        return no_name_of_a_page(wrong, command) or f"{name}: {' '.join(wrong)}: {text}"
    known = isinstance(
        error,
        (ValueError, ImportError, OSError, sqlite3.Error, CheckpointError, CellError, NotFiniteError, RefusedFileError),
    )
    return f"{name}: {text}" if known else None


def no_name_of_a_page(arguments: list[str], command: Callable[[], object]) -> str | None:
    """The message for the first argument that gives a group of pages, as `env`, another value than a page's name."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if not (pages := pages_of(key, command)) or not readable(argument):
            continue
        given = OverridesParser.create().parse_override(argument).value()
        if (isinstance(given, str) and given) or str(given) in pages:
            continue
        says = f"ValueError: {key} must be one name, as {key}={min(pages)}; got {value}"
        if isinstance(given, list) and len(given) > 1 and all(isinstance(name, str) for name in given):
            return f"{says} (--multirun {key}={','.join(given)} runs one after another)"
        own = [setting for setting in settings_known(command) if setting.startswith(f"{key}.")]
        return f"{says} (its settings are set one by one: {own[0]}, {own[1]}, ...)" if len(own) > 1 else says
    return None


def pages_of(group: str, command: Callable[[], object]) -> set[str]:
    """Names of the pages of a group of the command's settings, as `ppo` of `algorithm`; none for other settings."""
    name = command.__module__.rpartition(".")[2]
    folder = min(CONFIGS.rglob(f"{name}.yaml"), key=lambda page: len(page.parts), default=CONFIGS / name).parent
    files = {page.stem for page in (folder / group).glob("*.yaml")} if re.fullmatch(r"\w+", group) else set()
    stored = ConfigStore.instance().repo.get(group)
    return files | ({page.removesuffix(".yaml") for page in stored} if isinstance(stored, dict) else set())


def settings_known(command: Callable[[], object]) -> list[str]:
    """Names of the command's settings, as its help lists them."""
    name = command.__module__.rpartition(".")[2]
    return re.findall(r"^  ([\w.]+)=", help_text(name), re.MULTILINE) if name in PARTS else []


def culprits(command: Callable[[], object]) -> list[str]:
    """The arguments each of whose removal lets Hydra compose the settings; all arguments where there is none."""
    arguments, found = sys.argv[1:], []
    for index, argument in enumerate(arguments):
        sys.argv[1:] = ["--cfg", "job", *arguments[:index], *arguments[index + 1 :]]
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(io.StringIO()):
            command()
            found.append(argument)
    return found or arguments
