"""Random lives against a naive model of the rules, written from their text alone."""
