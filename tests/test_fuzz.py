"""Bad arguments to every public name, bad settings of every script; `fuzz_arguments` says what is tried and counted."""

from __future__ import annotations

import fuzz_arguments
import pytest
import valid_calls
from fuzz_arguments import Tried, classify, fuzz, left_out, public_names, shares, suits

SOON = (  # what takes no time to make
    *("statistics.pareto", "search.", "separation.", "blocks.", "stacking.SeedNoise", "representation.dormant"),
    *("SACSettings", "OnPolicySettings", "performance.Performance", "streams."),
    *("running_normalization.", "reward_scaling.", "study.csv", "scripts.toy", "scripts.export"),
)


def at_fault(found: list[Tried]) -> list[Tried]:
    return [one for one in found if one.kind in ("meaningless", "unnamed", "inside")]


def test_every_public_name_has_a_valid_call_or_a_reason():
    names = {name for name, _ in public_names() if not left_out(name)}
    assert names == valid_calls.CALLS.keys()
    reasons = {*valid_calls.NAMES_LEFT_OUT.values(), *valid_calls.METHODS_LEFT_OUT.values()}
    assert reasons <= valid_calls.LEFT_OUT.keys()


def test_some_hundred_bad_arguments_are_refused_by_name():
    found = fuzz(SOON, sample=400)
    assert len(found) > 350
    assert not at_fault(found), at_fault(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of what was made and never closed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_bad_argument_is_accepted_or_leads_into_torch():
    found = fuzz()
    print(shares(found))
    assert not at_fault(found), at_fault(found)


def test_an_error_is_the_packages_own_where_it_raises_it_and_names_the_argument():
    from decouple.studies.actor_size.search import lower_bound

    def refused(function, *args):
        with pytest.raises(Exception) as caught:
            function(*args)
        return caught.value

    assert classify(refused(lower_bound, 1.0, -1), "tolerance", -1) == "clear"
    assert classify(refused(lower_bound, 1.0, -1), "threshold", 1.0) == "unnamed"
    assert classify(refused(lambda: [][0]), "tolerance", -1) == "inside"
    assert classify(fuzz_arguments.Endless(), "tolerance", -1) == "inside"


def test_what_suits_an_argument_is_of_its_type_and_range():
    assert (
        suits("f", "gamma", float, 1) and not suits("f", "gamma", float, 1.5) and not suits("f", "gamma", float, True)
    )
    assert suits("f", "seeds", list[int], [0, 1]) and not suits("f", "seeds", list[int], [0, 0])
    assert suits("f", "num_envs", int, 3) and not suits("f", "num_envs", int, 0)
