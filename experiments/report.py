"""The report of the separation study on Procgen: from run folders to figures, tables and a recommendation.

    python experiments/report.py runs=runs/procgen
    python experiments/report.py runs='runs/procgen/controlled/*' protocol=controlled out=reports/controlled

Runs are folders of experiments/procgen.py. Written to `out`: `report.html`, one page with its pictures in it, and
beside it each table as CSV and Markdown and each picture as PNG. See docs/report.md. After Nafi, Ali and Hsu,
*Analyzing the Sensitivity to Policy-Value Decoupling in Deep Reinforcement Learning Generalization* (AAMAS 2023).
"""

if __name__ == "__main__":  # not in processes that are started by spawn, which import this file again
    import _script  # noqa: F401  (first: signals, and this folder off the path)

    from decouple.commands.report import main

    main()
