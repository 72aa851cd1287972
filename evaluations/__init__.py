"""Suites, load profiles and benchmarks that judge the agents of this repository."""
