"""Tells one webhook of ADL triggers: `faust -A insurance_fund.projections.webhooks_app worker`.

Each target has workers, a consumer group and a position of its own: one that is down holds up
nobody else. Which one is served says the setting `webhook`, where there are several.
"""

from insurance_fund.workers import webhooks_app

app = webhooks_app()
