"""MLflow's own tests of its registry, run on its own store and on the gated one."""
