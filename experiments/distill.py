"""A small actor from a trained one: the small one acts, the trained one labels what it meets.

    python experiments/distill.py checkpoint=runs/control/pendulum/td3/actor4x4_critic64x64_kfull/seeds0_2 actor=[2,2]
    python experiments/distill.py checkpoint=... sizes=search           # the smallest that reaches the search's bound
    python experiments/distill.py checkpoint=runs/procgen/as_written/starpilot/late/seed0 width=0.25

The teacher is an agent of experiments/control.py, procgen.py or this script, the best of its run unless `teacher_seed`
says which. All students are one batch. Started again, after a kill, it goes on; a student is exported as any agent is.
See docs/distill.md.
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.distill import main

    main()
