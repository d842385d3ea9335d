"""An agent of a run at play: GIF and MP4 of several episodes side by side, with value and entropy beneath.

    python experiments/watch.py checkpoint=runs/control/halfcheetah/sac/actor256x256_critic256x256_kfull/seeds0_1
    python experiments/watch.py checkpoint=runs/procgen/as_written/starpilot/late/seed0 episodes=6 levels=train

The run is one of experiments/control.py or procgen.py: its folder, or its checkpoint. See docs/watch.md.
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.watch import main

    main()
