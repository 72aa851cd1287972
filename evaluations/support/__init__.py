"""What a correct run of the support agent looks like, and suites made from that."""
