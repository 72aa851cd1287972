"""The secret key that seals masked values and makes their hashes.

Rules:
- It lies in ``<key folder>/privacy.key`` (0600), made on first use; workers that share sessions
  share the folder.
- Without it nothing sealed can be read again: that is an error, never a value left out.
- Values are sealed with AES-GCM and bound to their session and token: a row copied to another
  session does not open.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from mlflow_agent_plugin.errors import ConfigError, IntegrityError

KEY_FILE = "privacy.key"
_NONCE_BYTES = 12
_KEY_BYTES = 32


class PrivacyKey:
    """Seals, opens and fingerprints values.

    Args:
        folder: Key folder; the file is made there when it is first needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder).expanduser() / KEY_FILE
        self._key: bytes | None = None

    def fingerprint(self, text: str, *, context: str) -> str:
        """Return a keyed hash of `text`, the same for the same text and context, 64 hex digits."""
        return hmac.new(
            self._derived("fingerprint"), f"{context}\0{text}".encode(), hashlib.sha256
        ).hexdigest()

    def seal(self, text: str, *, context: str) -> str:
        """Return `text` encrypted, to be opened with the same context."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - cost

        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self._derived("seal")).encrypt(nonce, text.encode(), context.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, *, context: str) -> str:
        """Return what was sealed.

        Raises:
            IntegrityError: It was sealed with another key or for another context, or was changed.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - cost
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - cost

        try:
            data = base64.b64decode(sealed, validate=True)
            opened = AESGCM(self._derived("seal")).decrypt(
                data[:_NONCE_BYTES], data[_NONCE_BYTES:], context.encode()
            )
            return opened.decode()
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(
                "a masked value cannot be opened",
                where=str(self._path),
                hint="Workers that share sessions need the same privacy.key.",
            ) from error

    def _derived(self, purpose: str) -> bytes:
        if self._key is None:
            self._key = self._read()
        return hmac.new(self._key, purpose.encode(), hashlib.sha256).digest()

    def _read(self) -> bytes:
        try:
            if not self._path.exists():
                self._create()
            mode = self._path.stat().st_mode
            key = self._path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"cannot be read ({error.strerror})", where=str(self._path)
            ) from error
        if os.name == "posix" and mode & 0o077:
            raise ConfigError(
                "can be read by other users", where=str(self._path), hint="chmod it to 0600."
            )
        if len(key) != _KEY_BYTES:
            raise ConfigError(f"is not a key of {_KEY_BYTES} bytes", where=str(self._path))
        return key

    def _create(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{KEY_FILE}.{secrets.token_hex(8)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # Of two processes that make it at once the first wins; both then read the same file.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, self._path)
        fresh.unlink()
