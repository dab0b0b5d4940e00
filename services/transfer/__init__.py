"""Judges what tusd has stored, tells Kafka, and writes a receipt: nothing that arrived is lost."""
