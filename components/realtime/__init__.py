"""The real-time path: the MQTT broker that devices speak to."""
