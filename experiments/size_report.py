"""The report of the actor-size study: what experiments/smallest_actor.py has found so far, as tables and pictures.

    python experiments/size_report.py run_dir=runs/smallest_actor
    python experiments/size_report.py run_dir=runs/smallest_actor latency=again          # on a machine that is idle

Reads the store and the runs' folders, and writes to `<run_dir>/report`: report.md, which shows and explains the rest;
Table I and figure 4 beside the paper's numbers; and for each task and algorithm figure 5, returns against costs, and
the diagnoses. Latencies are measured once. A study in progress is reported as far as it has come. After Mysore et al.,
*Honey, I Shrunk The Actor* (CoG 2021, https://arxiv.org/abs/2102.11893), section IV; see docs/smallest_actor.md.
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.size_report import main

    main()
