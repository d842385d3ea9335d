"""Actor and critic of different sizes on control tasks: a cell of the actor-size study, all its seeds at once.

    python experiments/control.py algorithm=sac env=pendulum actor=[4,4] critic=[16,16] seeds=6
    python experiments/control.py algorithm=td3 env=halfcheetah actor=[64,64] critic=[64,64] seeds=2 total_frames=100000
    python experiments/control.py algorithm=sac,td3,ddpg actor=[4,4],[16,16] critic=[16,16] -m
    python experiments/control.py +sweep=hyperparameters algorithm=td3 env=pendulum -m   # docs/sweeps.md
    python experiments/control.py algorithm=td3 --help

`separation=1` shares the first hidden layer. The same command started again goes on from its last checkpoint. After
Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893).
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.control import main

    main()
