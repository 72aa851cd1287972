"""The embedded planner: intents, slots and a playbook instead of a language model."""
