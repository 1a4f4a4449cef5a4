"""A benchmark's figures are read by people and by charts: both forms hold all of them."""

import json

from benchmarks.tables import Reach, Table, reach_table

TABLE = Table(
    "sizes",
    "Bytes of a turn",
    ("who", "bytes"),
    [{"who": "us", "bytes": 212}, {"who": "them", "bytes": 20_971.4}, {"who": "nobody"}],
    notes="Of one turn.",
    reach=(Reach("stored", "bytes a turn", 212, 200), Reach("beside them", "times fewer", 98.9, 10, at_least=True)),
)


def test_a_table_reads_as_markdown():
    """It is pasted into the docs as it was printed."""
    assert TABLE.text().splitlines() == [
        "### Bytes of a turn",
        "",
        "| who    |  bytes |",
        "| ------ | -----: |",
        "| us     |    212 |",
        "| them   | 20,971 |",
        "| nobody |        |",
        "",
        "Of one turn.",
    ]


def test_a_table_survives_json():
    """The charts are drawn from the file."""
    assert json.loads(json.dumps(TABLE.plain()))["rows"] == TABLE.rows


def test_a_limit_that_is_missed_is_said():
    """The one thing that the reach table is for; a floor and a ceiling point in different directions."""
    rows = reach_table([TABLE]).rows

    assert [(row["what"], row["limit"], row["reached"]) for row in rows] == [
        ("stored", "≤ 200", "no"),
        ("beside them", "≥ 10", "yes"),
    ]
