"""Agents that read pictures, of any environment: policy and value separated at any block of a convolutional network.

    python experiments/pixels.py env=MiniGrid-Empty-8x8-v0 wrappers=[minigrid.wrappers:ImgObsWrapper]
    python experiments/pixels.py env=CarRacing-v3 separation=late frame_stack=4
    python experiments/pixels.py env=my_package.module:make num_levels=200 backbone=my_package.module:blocks
    python experiments/pixels.py env=ALE/Pong-v5 env_kwargs.obs_type=grayscale frame_stack=4 backbone=nature

Pictures may have any size, one channel or several, before or behind height and width. With num_levels agents train on
as many seeds of the environment and are tested on others: the generalisation gap is measured. The settings are those of
experiments/control.py, with defaults for pictures. The same command started again goes on from its last checkpoint.
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.pixels import main

    main()
