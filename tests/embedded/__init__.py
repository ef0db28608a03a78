"""The embedded log and whole commands: real files, real processes, real signals."""
