"""Reference models, trained once and written in four formats, bit by bit the same each time."""
