"""One module per wire contract, each a thin map to and from ``Verdict``."""
