"""What is decided: prices, policy, state, `decide` and `evolve`. Pure: no clock, no I/O."""
