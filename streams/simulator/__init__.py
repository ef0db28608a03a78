"""The simulator: a log in memory, in virtual time, with faults at any chosen call."""
