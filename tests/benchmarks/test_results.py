"""The page shows the figures of the file that is kept beside it, and no others."""

from benchmarks import results
from benchmarks.tables import Reach, Table

TABLE = Table(
    "sizes", "Bytes", ("who", "bytes"), [{"who": "us", "bytes": 212}], reach=(Reach("stored", "bytes", 212, 200),)
)
TEXT = "Before.\n<!-- table: sizes -->\nold\n<!-- end -->\nBetween.\n<!-- table: unknown -->\n<!-- end -->\n"


def test_a_table_takes_its_place_in_a_page():
    """What is around it stays; so does a place whose table was never measured."""
    page = results.page(TEXT, [TABLE])

    assert page.startswith("Before.\n<!-- table: sizes -->\n\n| who | bytes |\n")
    assert page.endswith("| us  |   212 |\n\n<!-- end -->\nBetween.\n<!-- table: unknown -->\n<!-- end -->\n")
    assert results.page(page, [TABLE]) == page


def test_a_run_replaces_its_own_tables_alone(tmp_path):
    """One suite can be measured again without the hour that the others take."""
    file = tmp_path / "performance.json"
    results.store(file, [TABLE, Table("other", "Other", ("a",), [{"a": 1}])])

    tables = results.store(file, [Table("sizes", "Bytes", ("who",), [{"who": "them"}])])

    assert [(table.name, table.rows) for table in tables] == [
        ("sizes", [{"who": "them"}]),
        ("other", [{"a": 1}]),
    ]


def test_the_page_in_the_docs_shows_the_kept_figures():
    """A figure that was typed in would outlive what it says."""
    text = results.PAGE.read_text()

    assert results.page(text, results.read(results.FILE)) == text
    assert "-->\n<!-- end -->" not in text, "a table was never measured"
