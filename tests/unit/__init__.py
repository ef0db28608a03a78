"""What is decided, rule by rule; no I/O."""
