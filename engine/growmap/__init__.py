"""Makes grow maps: the best shape of a static tree for a pair of models on this machine."""
