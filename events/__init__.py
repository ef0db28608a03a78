"""What is said: messages, exact amounts, the ledger entry and its chain."""
