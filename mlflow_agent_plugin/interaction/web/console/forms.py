"""Reading what a form sent."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request

from mlflow_agent_plugin.interaction.web.people import Person, check_form

MAX_FORM_BYTES = 256 * 1024


class Form:
    """A checked form of a person.

    Args:
        values: First value of each field.
    """

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """Return a field without spaces around it, empty if it was not sent."""
        return self._values.get(name, "").strip()

    def required(self, name: str, what: str) -> str:
        """Return a field that has to be filled in.

        Raises:
            HTTPException: 400, it is empty.
        """
        found = self.text(name)
        if not found:
            raise HTTPException(400, f"Please give {what}.")
        return found


async def read_form(request: Request, person: Person) -> Form:
    """Return the form that was sent, once its token fits.

    Raises:
        HTTPException: 403, it is not this person's; 413, too long; 415, not a form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "This page takes forms only.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, "The form is too long.")
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=50)
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read.") from error
    form = Form({name: values[0] for name, values in fields.items()})
    check_form(request, person, form.text("token"))
    return form
