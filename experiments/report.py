"""The report of the separation study on Procgen: from run folders to figures, tables and a recommendation.

    python experiments/report.py runs=runs/procgen
    python experiments/report.py runs='runs/procgen/controlled/*' protocol=controlled out=reports/controlled

Runs are folders of experiments/procgen.py. Written to `out`: `report.html`, one page with its pictures in it, and
beside it each table as CSV and Markdown and each picture as PNG. See docs/report.md. After Nafi, Ali and Hsu,
*Analyzing the Sensitivity to Policy-Value Decoupling in Deep Reinforcement Learning Generalization* (AAMAS 2023).
"""

# First: signals, and this folder off the path.
import _script  # noqa: F401

from decouple.commands.report import main

if __name__ == "__main__":
    main()
