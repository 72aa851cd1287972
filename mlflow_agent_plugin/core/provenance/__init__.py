"""Where the value of each argument of a tool call came from.

Rules (no I/O):
- Every text the session has seen stands in one of four places (`SeenTexts`): what the user wrote;
  what trusted tools returned; what tools with ``untrusted_output`` returned; and *records*, those
  fields of untrusted outputs that third parties cannot write.
- A value is looked for in this order, and the first place decides: the user's text → ``user``; a
  field of a trusted output → ``trusted``; untrusted text → ``untrusted``; a record → ``trusted``;
  the rest of trusted outputs and records → ``untrusted``; nowhere → ``model``. So what untrusted
  text names is never trusted because a record holds it too.
- A trusted tool vouches for the fields it returns, not for what a sentence in a field says: that
  may quote anybody. A field is a whole value, or what stands between commas, colons and line ends.
- A trusted tool does not vouch for what it was told: a value that stood in an untrusted argument
  of this or an earlier call is not ``trusted`` because the output repeats it. Error messages vouch
  for nothing.
- To vouch for a value, a text must hold it as a whole, after Unicode (NFKC), case and white-space
  normalisation: "50" is not found in "1500", nor "x.com" in "evil@x.com". To spoil it, a looser
  match is enough. For a whole number, the numbers inside of dates, times, amounts and before the
  items of a list do not count, in either case: "13" is not found in "June 13" nor in "13:30".
- A text that stands nowhere as a whole is ``user`` if the user wrote each of its words, and
  ``untrusted`` if one of its words that looks like an identifier (an address, a link, a number)
  stands only in untrusted text.
- An object or list is as trustworthy as its worst part. Booleans, nulls and empty values say
  nothing and are ``model``.
- The wording of a text never matters, only where it came from.
"""

from mlflow_agent_plugin.core.provenance.derive import derive_provenance
from mlflow_agent_plugin.core.provenance.texts import (
    SeenTexts,
    Text,
    TextReader,
    VouchedText,
    output_texts,
    parse_content,
    plain_texts,
)

__all__ = [
    "SeenTexts",
    "Text",
    "TextReader",
    "VouchedText",
    "derive_provenance",
    "output_texts",
    "parse_content",
    "plain_texts",
]
