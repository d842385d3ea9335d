"""The two papers' experiments: where policy and value separate, and how small an actor may be."""
