"""Tests against a real Kafka broker, and the broker itself."""
