"""The toy problem: one neuron could solve it, but only a larger critic lets it learn to.

    python experiments/toy.py                                   # the whole study: 5 algorithms x 5 pairs x 6 seeds
    python experiments/toy.py algorithms=[ddpg] seeds=2         # a part of it
    python experiments/toy.py train=false                       # figures and table alone, from what is there

Symmetric pairs |1|, |4,4,1|, |8,8,1| and |16,16,1|, and a |1| actor with a |16,16,1| critic. Each cell is
`experiments/control.py env=toy algorithm=... actor=[...] critic=[...]`, all its seeds one batch; cells that are done
are left alone, one that was interrupted goes on. An agent has learned if its policy is viable in the end and was not at
its start: a neuron may be initialised near the solution. A cell whose files are damaged is named and left out.
Section III and figures 1 and 2 of Mysore et al., *Honey, I Shrunk The Actor* (CoG 2021,
https://arxiv.org/abs/2102.11893).
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.toy import main

    main()
