"""The real processor on a simulated log: what no machine does on demand."""
