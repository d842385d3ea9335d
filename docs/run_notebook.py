"""Run docs/notebook.ipynb and keep what it printed and drew: `python docs/run_notebook.py`, in an empty folder.

A notebook is JSON: its code cells are run in order, in one namespace, as Jupyter runs them. tests/test_docs.py runs
them with fewer frames.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"


def run_cell(source: str, names: dict[str, Any]) -> str:
    """Run a cell; returns what it printed, and the value of a last expression as Jupyter shows it."""
    tree, printed = ast.parse(source), io.StringIO()
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        value = eval(compile(last, str(NOTEBOOK), "eval"), names) if last else None
    return printed.getvalue() + ("" if value is None else f"{value!r}\n")


def main() -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    notebook, names = json.loads(NOTEBOOK.read_text()), {}
    for number, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), start=1):
        text = run_cell("".join(cell["source"]), names)
        outputs = [{"name": "stdout", "output_type": "stream", "text": text.splitlines(True)}] if text else []
        for figure in map(plt.figure, plt.get_fignums()):
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=80)
            data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
            outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
        plt.close("all")
        cell |= {"execution_count": number, "outputs": outputs}
        print(f"[{number}] {text}", end="", flush=True)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
