from __future__ import annotations

from typing import Any

from benchmarks.contexts import context_differences, difference_table, markdown


def row(context: str | None, layer: int = 0, **axes: Any) -> dict[str, Any]:
    about = {"encoder": "model", "read": "image", "layer": layer, "context": context}
    return about | {"output": f"{context} {layer}", "components": 0} | axes


def test_rows_that_differ_in_their_context_alone_are_compared_the_later_less_the_earlier() -> None:
    rows = [row("reverse"), row("single"), row("single", 1), row("reverse", 1, read="instruction"), row("repeat")]
    rows += [row(None), row("reverse", components=8)]
    scores = [30, 20, 50, 60, 25, 1, 99]

    def compare(first: int, second: int) -> tuple[float, tuple[float, float]]:
        return scores[first] - scores[second], (0.0, 1.0)

    found = list(context_differences(rows, compare))
    assert [(each["first"], each["second"], each["difference"]) for each in found] == [
        ("repeat", "single", 5),
        ("reverse", "single", 10),
        ("reverse", "repeat", 5),
    ]
    assert all(each["layer"] == 0 and each["interval"] == [0.0, 1.0] for each in found)
    assert "| model | image | 0 | 0 | reverse − single | +1000.0 | +0.0 … +100.0 |" in difference_table(found)


def test_a_table_has_a_rule_under_its_header() -> None:
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
