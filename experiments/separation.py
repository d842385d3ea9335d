"""Where policy and value should separate on a task: every k trained with any algorithm, and a page with the answer.

    python experiments/separation.py env=CartPole-v1
    python experiments/separation.py env=my_package.module:make algorithm=sac actor=[64,64,64] critic=[64,64,64]
    python experiments/separation.py env=CartPole-v1 study.parallel=3               # three points at once
    python experiments/separation.py env=CartPole-v1,Acrobot-v1 hydra/launcher=joblib -m
    python experiments/separation.py env=CartPole-v1 study.train=false              # the page again, of what there is

k = 0 is two separate networks, k = depth (the hidden layers of the smaller one) a shared one. Each k is trained as by
`experiments/control.py`, all its seeds as one batch. Started again, after a kill or with more seeds, it trains what is
missing. The page has learning curves, returns with intervals, costs, and which k with what confidence.
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.separation import main

    main()
