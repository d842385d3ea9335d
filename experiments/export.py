"""An actor that ships: one agent of a run as a file, checked against the run, with its size and its latency.

    python experiments/export.py checkpoint=runs/control/pendulum/td3/actor4x4_critic16x16_kfull/seeds0_6 seed=2
    python experiments/export.py checkpoint=runs/procgen/as_written/starpilot/late/seed0 format=pt2 sample=true

The run is one of experiments/control.py or procgen.py: its folder, or its checkpoint. The file holds the scaling of
observations, the actor and the bounds of actions, but no critic: see docs/export.md.
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.export import main

    main()
