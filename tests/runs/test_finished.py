"""finished.py: whether a run's result is the one that is asked for."""

from __future__ import annotations

import os

from decouple.runs.finished import evaluated_over, last_session_ended


def test_a_result_is_of_the_last_session_and_its_episodes(tmp_path):
    config, result = tmp_path / "config.yaml", tmp_path / "result.json"
    assert not evaluated_over(tmp_path, 100)
    config.write_text("final_episodes: 100\n")
    assert not evaluated_over(tmp_path, 100)
    result.write_text("{}")
    for file, at in ((config, 10), (result, 20)):
        os.utime(file, (at, at))
    assert last_session_ended(tmp_path)
    assert evaluated_over(tmp_path, 100) and not evaluated_over(tmp_path, 50)
    os.utime(result, (5, 5))  # a session began later, and has not come to its end
    assert not evaluated_over(tmp_path, 100) and not last_session_ended(tmp_path)
