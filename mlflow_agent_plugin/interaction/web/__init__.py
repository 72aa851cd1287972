"""What a running server shows: MLflow's own app, the review console, the API."""

LOGIN_VARIABLE = "MLFLOW_AGENTS_SERVER_LOGIN"
"""Whether the server asks who somebody is; the command that starts it always sets it."""

TRIALS_VARIABLE = "MLFLOW_AGENTS_SERVER_TRIALS"
"""Whether people may try versions on the server's machine; off unless it says ``true``."""

TRIAL_VARIABLES_VARIABLE = "MLFLOW_AGENTS_SERVER_TRIAL_VARIABLES"
"""Names of variables that go with a version on trial, with commas between them."""
