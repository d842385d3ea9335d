"""The actor-size study: a cell's training, the search for the smallest actor, its store, tables and figures."""
