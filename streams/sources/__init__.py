"""Source adapters: exchanges' own formats, read as our events."""
