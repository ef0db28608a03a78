"""Carries the read models: `faust -A insurance_fund.projections.app worker`.

Read models in SQLite serve the workers of one host, those in PostgreSQL the workers of many.
"""

from insurance_fund.workers import projections_app

app = projections_app()
