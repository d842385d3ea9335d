"""Networks: blocks, separation of policy and value network, heads, models for both kinds of learning, stacks."""
