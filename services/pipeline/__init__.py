"""The pipeline: from an image that was received to one that can be found, and to dataset versions.

`collect` -> `preprocess` -> `store.claim` -> `features` -> `store.save`, each a plain function over
the small interfaces of `ports`; `batch` puts them together, `definitions` gives them to Dagster.
"""
