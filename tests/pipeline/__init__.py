"""Tests of the pipeline that need what its image has: NumPy, ONNX Runtime, Dagster.

They run in a process of their own with the image's wheels before the launcher's packages:
`./estate test -- tests/unit/services/test_pipeline.py` starts one per file.
"""
