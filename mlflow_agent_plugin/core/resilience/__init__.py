"""What keeps one user, tool or service from taking the others down.

- `faults`: what an exception of a tool says about the service behind it (pure).
- `breaker`: circuit breaker and retry budget (pure).
- `spend`: the budget of a turn and its session (pure).
- `bulkhead`: how many calls of a tenant may run.
- `watch`: the attempts of one call, between the guards and the tool runner.
- `guards`, `turns`: where the gateway, the runtime and the models ask.
"""
