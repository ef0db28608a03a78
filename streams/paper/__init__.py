"""The paper exchange: a matching engine and an ADL engine that play against a tape of trades."""
