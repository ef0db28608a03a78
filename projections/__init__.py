"""What is shown: read models, folded from ledger entries."""
