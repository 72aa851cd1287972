"""What this package costs, measured: ``python -m benchmarks``."""
