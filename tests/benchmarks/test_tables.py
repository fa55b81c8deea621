from __future__ import annotations

from benchmarks.report.tables import Table, cell, markdown, points


def test_a_table_has_a_rule_under_its_header_and_its_marked_row_in_bold() -> None:
    table = Table(["a", "b"], [["1", "x|y"], ["2", ""]], marked=1)
    assert markdown(table) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n| **2** |  |"


def test_cells() -> None:
    assert (cell(None), cell([0, 2]), cell((1,)), cell(0)) == ("", "0 + 2", "1", "0")
    assert points(-0.0123, (-0.02, 0.001)) == "-1.2 (-2.0 … +0.1)"
