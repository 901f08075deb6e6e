"""What went wrong, in words. Exceptions of TLS and of several attempts say nothing themselves; their causes do."""

from __future__ import annotations


def causes(error: BaseException) -> list[BaseException]:
    """The exception and what caused it, outermost first; a ring or a very long chain ends it. What the caller may have
    been handling meanwhile, its context, caused nothing, and is nobody's business."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain and len(chain) < 10:
        chain.append(current)
        current = _inside(current) or current.__cause__
    return chain


def _inside(error: BaseException) -> BaseException | None:
    """Of a group: one address, one exception; of several addresses the last one tried speaks for all. httpcore forgets
    the cause of an exception, but says it with that very exception."""
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[-1]
    return next((one for one in error.args[:1] if isinstance(one, BaseException)), None)


def words(error: BaseException) -> str:
    """The innermost cause that says something knows best: "Connection refused", or what TLS disliked. "": none does."""
    # A group says only that there are several causes, never which.
    speaking = (cause for cause in reversed(causes(error)) if str(cause) and not isinstance(cause, BaseExceptionGroup))
    return next((str(cause) for cause in speaking), "")
