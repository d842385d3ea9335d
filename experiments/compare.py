"""Curves of any runs side by side, of either study.

    python experiments/compare.py runs=[runs/control/pendulum]
    python experiments/compare.py runs=[runs/one,runs/two] metrics=[eval/return,loss/critic] output=two.png

Runs that differ in their seed alone are one curve: a thick line for the mean, a thin one for each seed. A curve is
named by the settings in which the runs differ.
"""

# First: signals, and this folder off the path.
import _script  # noqa: F401

from decouple.commands.compare import main

if __name__ == "__main__":
    main()
