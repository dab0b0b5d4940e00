"""The data lake: Kafka and PostgreSQL."""
