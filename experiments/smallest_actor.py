"""The smallest actor that still does the job on a task, with an algorithm: a search over sizes, six seeds each.

    python experiments/smallest_actor.py env=pendulum algorithm=td3
    python experiments/smallest_actor.py env=pendulum,reacher algorithm=td3,sac -m        # one search after another
    python experiments/smallest_actor.py env=pendulum,reacher algorithm=td3,sac hydra/launcher=joblib -m # all at once
    python experiments/smallest_actor.py search.exhaustive=true search.engine=ray search.parallel=9      # cells at once
    python experiments/smallest_actor.py search.train=false                   # the table of all searches alone

Baseline, smallest symmetric pair, smallest actor beside that critic: decouple/studies/actor_size/search.py. Each size
is trained as by `experiments/control.py`, all its seeds as one batch, and its results go to `cells.sqlite` in
`run_dir`, which any number of these commands may share. Started again, after a kill or with more seeds or sizes, it
trains what is missing. After Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893),
section IV and Table I.
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.smallest_actor import main

    main()
