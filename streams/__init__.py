"""How it runs: the log port and its adapters, recovery, the processor."""
