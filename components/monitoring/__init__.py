"""Monitoring: prometheus-operator, Prometheus, Alertmanager and the rules about them."""
