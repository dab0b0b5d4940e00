"""Failure drills: break a part under load, measure the outage, count what was lost."""
