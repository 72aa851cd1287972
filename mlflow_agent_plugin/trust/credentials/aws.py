"""AWS: a stored secret (Secrets Manager), or a role for one call (STS AssumeRole).

Rules:
- The process's own AWS identity (environment, profile, instance or pod role) asks; boto3 finds it.
- A role is narrowed by a session policy: what the call may do is the intersection of both. STS
  cannot take a session back, so it is dropped at the end of the call and ends by itself after
  `duration_seconds` (AWS allows no less than 900).
- botocore writes requests and answers to its debug log, secrets included: its debug messages are
  switched off in this process as soon as a secret is asked for.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

from mlflow_agent_plugin.errors import CredentialError
from mlflow_agent_plugin.trust.credentials.placeholders import fill
from mlflow_agent_plugin.trust.credentials.provider import VALUE, CredentialRequest, IssuedSecret

_TALKATIVE = ("botocore", "boto3", "urllib3", "hvac", "requests")


class SecretsManagerProvider:
    """A secret stored in AWS Secrets Manager.

    Args:
        secret_id: Name or ARN; may hold ``{tenant}``.
        key: Field of a secret that is a JSON object; None: an object gives all its text fields,
            anything else is one value.
        region: AWS region; None: as the environment says.
        endpoint_url: Another endpoint than AWS's own.
    """

    name = "aws_secrets_manager"

    def __init__(
        self,
        secret_id: str,
        *,
        key: str | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        self._secret_id = secret_id
        self._key = key
        self._client = _LazyClient("secretsmanager", region, endpoint_url)

    def issue(self, request: CredentialRequest) -> IssuedSecret:
        """Read the secret's current version."""
        where = f"scope {request.scope}: AWS Secrets Manager"
        answer = self._client.call(
            "get_secret_value", where, SecretId=fill(self._secret_id, request)
        )
        text = answer.get("SecretString")
        if not isinstance(text, str) or not text:
            raise CredentialError("the secret is empty or not text", where=where)
        return IssuedSecret(_fields(text, self._key, where))


class AssumeRoleProvider:
    """A session of an AWS role, for one call.

    Args:
        role_arn: The role; may hold ``{tenant}``.
        session_policy: IAM policy document the session is narrowed by; may hold placeholders.
        duration_seconds: How long AWS accepts it, 900 to 43200.
        region: AWS region of the STS endpoint.
        endpoint_url: Another endpoint than AWS's own.
    """

    name = "aws_sts"

    def __init__(
        self,
        role_arn: str,
        *,
        session_policy: Mapping[str, Any] | None = None,
        duration_seconds: int = 900,
        region: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        self._role_arn = role_arn
        self._policy = None if session_policy is None else dict(session_policy)
        self._duration_seconds = duration_seconds
        self._client = _LazyClient("sts", region, endpoint_url)

    def issue(self, request: CredentialRequest) -> IssuedSecret:
        """Assume the role; the call's key is in CloudTrail as the session's name."""
        where = f"scope {request.scope}: AWS STS"
        arguments: dict[str, Any] = {
            "RoleArn": fill(self._role_arn, request),
            "RoleSessionName": _session_name(request),
            "DurationSeconds": self._duration_seconds,
        }
        if self._policy is not None:
            policy = fill(self._policy, request)
            arguments["Policy"] = json.dumps(policy, separators=(",", ":"))
        issued = self._client.call("assume_role", where, **arguments)["Credentials"]
        return IssuedSecret(
            {
                "aws_access_key_id": issued["AccessKeyId"],
                "aws_secret_access_key": issued["SecretAccessKey"],
                "aws_session_token": issued["SessionToken"],
            },
            expires_at=issued["Expiration"],
        )


class _LazyClient:
    """A boto3 client made on first use; one for all threads."""

    def __init__(self, service: str, region: str | None, endpoint_url: str | None) -> None:
        self._service = service
        self._region = region
        self._endpoint_url = endpoint_url
        self._made: Any = None
        self._lock = threading.Lock()

    def call(self, operation: str, where: str, **arguments: Any) -> dict[str, Any]:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        silence_debug_logs()
        problem = ""
        try:
            with self._lock:
                if self._made is None:
                    timeouts = Config(
                        connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2}
                    )
                    self._made = boto3.session.Session().client(
                        self._service,
                        region_name=self._region,
                        endpoint_url=self._endpoint_url,
                        config=timeouts,
                    )
            answer: dict[str, Any] = getattr(self._made, operation)(**arguments)
        except ClientError as error:
            # The code only: messages repeat what was asked for.
            problem = f"refused the request ({error.response.get('Error', {}).get('Code', '?')})"
        except (BotoCoreError, ValueError) as error:
            problem = f"cannot be asked ({type(error).__name__})"
        if problem:
            raise CredentialError(f"the issuer {problem}", where=where)
        return answer


def silence_debug_logs() -> None:
    """Keep the libraries that carry secrets from writing them to a debug log."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)


def _fields(text: str, key: str | None, where: str) -> dict[str, str]:
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if key is None and not isinstance(parsed, dict):
        return {VALUE: text}
    fields = {k: str(v) for k, v in parsed.items()} if isinstance(parsed, dict) else {}
    if key is None and fields:
        return fields
    if key is None or not fields.get(key):
        raise CredentialError(f"the secret has no field {key!r}", where=where)
    return {VALUE: fields[key]}


def _session_name(request: CredentialRequest) -> str:
    return re.sub(r"[^\w+=,.@-]", "-", f"{request.agent}-{request.key}", flags=re.ASCII)[:64]
