"""What trained agents do: returns, recorded episodes, representations, statistics over runs."""
