"""The table of what is real: one source, and README carries it as it is."""

from __future__ import annotations

from rehearsal import parts, paths


def test_readme_carries_the_generated_tables() -> None:
    readme = (paths.root() / "README.md").read_text(encoding="utf-8")
    assert parts.inserted(readme) == readme, "run: python -m rehearsal.parts"
    assert parts.markdown() in readme


def test_every_state_is_one_of_three_words() -> None:
    states = {part.node for part in parts.PARTS} | {part.without_node for part in parts.PARTS}
    assert states <= {"real", "simulated", "declared"}


def test_rows_follow_the_mode() -> None:
    node = dict(row[:2] for row in parts.table_rows("node"))
    simulated = dict(row[:2] for row in parts.table_rows("simulated"))
    assert node["Kafka"] == "real"
    assert simulated["Kafka"] == "simulated"
    assert node.keys() == simulated.keys()


def test_the_core_profile_has_a_budget() -> None:
    core = parts.PROFILES["core"]
    assert core.minutes > 0 and core.memory_gib > 0 and core.disk_gib > 0
