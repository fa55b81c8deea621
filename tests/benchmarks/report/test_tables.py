from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.report.tables import Table, cell, markdown, paper_table, points
from randar_features.store.records import markdown_text


def test_a_table_has_a_rule_under_its_header_and_its_marked_row_in_bold() -> None:
    table = Table(["a", "b"], [["1", "x|y"], ["2", ""]], marked=1)
    assert markdown(table) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n| **2** |  |"


def test_cells() -> None:
    assert (cell(None), cell([0, 2]), cell((1,)), cell(0)) == ("", "0 + 2", "1", "0")
    assert points(-0.0123, (-0.02, 0.001)) == "-1.2 (-2.0 … +0.1)"


def test_two_runs_of_one_encoder_are_both_in_the_table_of_a_paper() -> None:
    shared = {
        "protocol": "p",
        "data": "d",
        "metric": "accuracy",
        "low": float("nan"),
        "high": float("nan"),
        "best_of_encoder": True,
    }
    lines = [("a", "tiny", 0.5), ("b", "tiny", 0.7), ("b", "pixels", 0.2)]
    found = paper_table(pd.DataFrame([shared | {"run": r, "encoder": e, "value": v} for r, e, v in lines]))
    assert found.to_dict() == {
        "a: accuracy": {"tiny": "50.0", "pixels": "20.0"},
        "b: accuracy": {"tiny": "70.0", "pixels": "–"},
    }
    named = found.rename(index=lambda name: name + "|1").rename(index=markdown_text, columns=markdown_text)
    assert "tiny\\|1" in named.to_markdown(), "as the docstring says"


def test_results_without_a_choice_by_tuning_images_make_no_table_of_a_paper() -> None:
    with pytest.raises(ValueError, match="tuning images"):
        paper_table(pd.DataFrame({"encoder": ["tiny"], "value": [0.5]}))
