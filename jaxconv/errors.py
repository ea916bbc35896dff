"""Everything jaxconv raises on purpose.

    JaxconvError
    ├── UsageError            the call itself is wrong (CLI exit code 2)
    │   └── BackendUnavailable    a backend that is unknown or not installed
    ├── SourceError           the source is absent, damaged or not what it claims to be
    │   └── LayoutError           tensor names or shapes that no layout explains
    ├── TokenError            a token that is not exactly one vocabulary entry
    │   └── TokensUnknown         no tokens were given, and nothing records them
    ├── RefusedError          a conversion that could not be exact
    ├── OutputError           the output cannot be written where it was asked for
    ├── ProcessError          another process of the same conversion failed, died or did not come
    └── VerificationError     the proof of a conversion failed

A message names the thing, what was found, what was expected, and the next step.
"""


class JaxconvError(Exception):
    """Base of every error that jaxconv raises on purpose."""

    exit_code = 1


class UsageError(JaxconvError):
    """The call is wrong: an unknown name, a contradiction, a malformed value."""

    exit_code = 2


class BackendUnavailable(UsageError):
    """The chosen backend or device is unknown or not installed."""


class SourceError(JaxconvError):
    """The source is absent, damaged, or not what it claims to be."""


class LayoutError(SourceError):
    """Tensor names, shapes or dtypes that the chosen layout does not explain."""


class TokenError(JaxconvError):
    """A token does not name exactly one usable vocabulary entry."""


class TokensUnknown(TokenError):
    """No tokens were given and nothing records them. `presets` names known rerankers of the same architecture."""

    def __init__(self, message: str, presets: tuple[str, ...]) -> None:
        super().__init__(message)
        self.presets = presets


class RefusedError(JaxconvError):
    """The conversion would silently change scores."""


class OutputError(JaxconvError):
    """The output directory cannot be written as asked."""


class ProcessError(JaxconvError):
    """Another process of the same conversion failed, died, did not come, or was started differently."""


class VerificationError(JaxconvError):
    """An output does not give the scores of its source."""
