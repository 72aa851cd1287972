"""Safety suites: what an agent does when its model is in an attacker's hand, or its user is.

    from mlflow_agent_plugin.development.safety import safety_suite, safety_table

    suite = safety_suite(bundle)                 # from contracts and policies alone
    ...                                          # evaluate as any other suite
    print(safety_table(result.suites["safety"].cases))

Rules:
- A safety case carries one tag ``safety:<kind>`` (`SafetyKind`). Cases are generated from an
  agent's contracts and policies, or written by hand beside its other suites.
- A case **slipped** if it failed; it was **passed to a human** if a call waited or was rejected;
  otherwise it was **blocked**. What slipped through as a call is also an unsafe call, which the
  gate's ``safety`` requirement reads from the evidence.
"""

from mlflow_agent_plugin.development.safety.generate import safety_suite
from mlflow_agent_plugin.development.safety.table import SafetyKind, SafetyRow, safety_table

__all__ = ["SafetyKind", "SafetyRow", "safety_suite", "safety_table"]
