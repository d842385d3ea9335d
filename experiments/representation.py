"""What policy and value networks have learned on Procgen, block by block, on training levels and on others.

    python experiments/representation.py checkpoint=runs/procgen/controlled/plunder/late/seed0
    python experiments/representation.py checkpoint=runs/one other=runs/two frames=1024 output=compared

The run is one of experiments/procgen.py: its folder, or its checkpoint. Writes one folder: `measures.csv`, `cka.csv`,
`representation.md` and pictures. `other`: a second run of the same game, whose features are compared with the first's
on the same frames. What each measure means: docs/representation.md.
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.representation import main

    main()
