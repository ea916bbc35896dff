"""The tokens whose rows are taken: exact vocabulary pieces, texts of exactly one token, or ids."""

from __future__ import annotations

from collections.abc import Sequence

from jaxconv.errors import TokenError
from jaxconv.head import Method
from jaxconv.text.tokenizer import Token, Vocabulary

ORDER = "Order: false first, true second."


def resolve_tokens(
    *, pieces: Sequence[str] | None, ids: Sequence[int] | None, vocabulary: Vocabulary, num_rows: int, method: Method
) -> tuple[Token, ...]:
    """The tokens of the answers, in order, checked against the vocabulary and the head's rows.

    Args:
        pieces: Strings: exact pieces, as vLLM resolves them, else texts that encode to exactly one id. None with `ids`.
        ids: Token ids; None with `pieces`.
        vocabulary: The tokenizer.
        num_rows: The number of rows of the LM head.
        method: How the rows become the score head, which says how many tokens there must be.

    Raises:
        TokenError: A token is unknown, in several pieces, the unknown piece, doubled, out of range or padding; or there
            are too few or too many.
    """
    if pieces is not None and ids is not None:
        raise TokenError("both --classifier-from-tokens and --token-ids were given; expected one of them.")
    answers: Sequence[object] = pieces if pieces is not None else ids or ()
    _check_count(len(answers), method)
    if pieces is not None:
        tokens = [_from_text(text, vocabulary) for text in pieces]
    else:
        tokens = [_from_id(index, vocabulary, num_rows) for index in answers]
    for token in tokens:
        if token.id >= num_rows:
            raise TokenError(
                f"token {token.text!r} has id {token.id}, but the LM head has only {num_rows} rows; "
                "the tokenizer and the weights do not belong together."
            )
    if len({token.id for token in tokens}) != len(tokens):
        shown = ", ".join(f"{token.text!r} ({token.id})" for token in tokens)
        raise TokenError(f"the tokens are not all different: {shown}. {vocabulary.near(tokens[0].text)} {ORDER}")
    return tuple(tokens)


def _check_count(count: int, method: Method) -> None:
    if method == "from_2_way_softmax" and count != 2:
        raise TokenError(f"method from_2_way_softmax takes exactly two tokens, not {count}. {ORDER}")
    if count == 0:
        raise TokenError("method no_post_processing takes at least one token, not an empty list.")


def _from_text(text: object, vocabulary: Vocabulary) -> Token:
    if not isinstance(text, str) or not text:
        raise TokenError(f"token {text!r} is not a string of at least one character; use --token-ids for ids.")
    index = vocabulary.id(text)
    if index is not None and index == vocabulary.unknown:
        raise TokenError(f"token {text!r} is the tokenizer's unknown piece; to take its row give its id, {index}.")
    if index is not None:
        return Token(text, index)
    encoded = vocabulary.encode(text)
    shown = " + ".join(f"{token.text!r} ({token.id})" for token in encoded) or "nothing"
    if len(encoded) != 1:
        raise TokenError(
            f"token {text!r} is not a single vocabulary piece: it encodes to {len(encoded)} pieces, {shown}. "
            f"{vocabulary.near(text)} Give one of them, or an id with --token-ids. {ORDER}"
        )
    if encoded[0].id == vocabulary.unknown:
        raise TokenError(f"token {text!r} is unknown to the tokenizer: it encodes to {shown}. {vocabulary.near(text)}")
    return encoded[0]


def _from_id(index: object, vocabulary: Vocabulary, num_rows: int) -> Token:
    if type(index) is not int or index < 0:
        raise TokenError(f"token id {index!r} is not a whole number of zero or more; expected one below {num_rows}.")
    if index >= num_rows:
        raise TokenError(f"token id {index} is out of range: the LM head has {num_rows} rows. {ORDER}")
    piece = vocabulary.piece(index)
    if piece is None:
        raise TokenError(
            f"token id {index} names no piece: the tokenizer has {len(vocabulary)} entries, the rows above are padding."
        )
    return Token(piece, index)
