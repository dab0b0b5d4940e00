"""Collection: readings of devices from MQTT into Kafka, acknowledged when they are safe."""
