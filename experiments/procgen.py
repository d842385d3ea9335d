"""Separation points on Procgen: train on 200 levels of a game, test on all of them.

    python experiments/procgen.py separation=late env=starpilot protocol=as_written total_frames=1000000 seed=0
    python experiments/procgen.py separation=late env=starpilot,plunder seed=0,1,2 -m                # docs/sweeps.md
    python experiments/procgen.py separation=late env=starpilot performance=fastest micro_batch=64
    python experiments/procgen.py evaluate=runs/demo/checkpoint.pt num_levels=500 start_level=1000
    python experiments/procgen.py --help

`separation` is shared, late, early, full or an integer k: the value network uses the policy's first k blocks. The same
command started again goes on from its last checkpoint. After Nafi, Ali and Hsu, *Analyzing the Sensitivity to
Policy-Value Decoupling in Deep Reinforcement Learning Generalization* (AAMAS 2023).
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: else `import procgen` finds this script)

    from decouple.commands.procgen import main

    main()
