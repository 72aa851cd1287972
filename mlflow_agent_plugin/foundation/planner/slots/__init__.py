"""Finds the values of slots in what a user says.

Rules:
- A finder either is sure or finds nothing: two different readings of the same slot are nothing, and
  the planner asks.
- Where the slot was just asked for, a bare answer counts ("1234", "50", "yes"); elsewhere a value
  must show what it is ("card ending in 1234", "£50").
- Values are JSON: text, whole numbers, booleans. Money is in minor units.
"""

from mlflow_agent_plugin.foundation.planner.slots.find import find_slot, find_slots

__all__ = ["find_slot", "find_slots"]
