"""Tests of what is shown: read models, workers, API, event stream."""
