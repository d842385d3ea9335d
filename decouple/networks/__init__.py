"""Networks: blocks, where policy and value network separate, heads, models of both kinds, stacks of agents."""
