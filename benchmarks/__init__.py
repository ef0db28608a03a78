"""Benchmarks: `make bench` prints what docs/performance.md quotes."""
