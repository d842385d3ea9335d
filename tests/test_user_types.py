"""A type checker in a user's folder: it finds the package's types, and the pages' code has no fault."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))
from run_page import code_of  # noqa: E402


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pyright"), reason="pyright is not installed")
def test_the_pages_code_has_no_fault_in_a_users_folder_and_a_wrong_argument_is_found(tmp_path):
    readme = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    landing = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "index.md").read_text(), re.M | re.S)
    (tmp_path / "readme.py").write_text("\n".join(readme))
    (tmp_path / "landing.py").write_text("\n".join(landing))
    (tmp_path / "tutorial.py").write_text(code_of((ROOT / "docs" / "tutorial.md").read_text()))
    wrong = 'from decouple import mlp_blocks, separate\n\nseparate(mlp_blocks(3, [4]), mlp_blocks(3, [4]), at="lat")\n'
    (tmp_path / "wrong.py").write_text(wrong)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    ran = subprocess.run(
        ["pyright", "--pythonpath", sys.executable, "--outputjson"], cwd=tmp_path, capture_output=True, text=True
    )
    found = [each for each in json.loads(ran.stdout)["generalDiagnostics"] if each["severity"] == "error"]
    assert [Path(each["file"]).name for each in found] == ["wrong.py"], found
    assert "Literal['lat']" in found[0]["message"] and "Literal['late']" in found[0]["message"]
