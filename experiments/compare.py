"""Curves of any runs side by side, of either study.

    python experiments/compare.py runs=[runs/control/pendulum]
    python experiments/compare.py runs=[runs/one,runs/two] metrics=[eval/return,loss/critic] output=two.png

Runs that differ in their seed alone are one curve: a thick line for the mean, a thin one for each seed. A curve is
named by the settings in which the runs differ.
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.compare import main

    main()
