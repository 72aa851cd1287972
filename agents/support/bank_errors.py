"""How the bank says no."""


class BankError(Exception):
    """The bank refuses; the text says why and may be shown to the customer."""
