"""The HTTP interface: read models, the ledger's own bytes, live events, and the dashboard."""
