"""Analysis of trained agents: returns, recorded episodes, representations, statistics over runs."""
