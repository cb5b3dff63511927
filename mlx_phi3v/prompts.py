"""Text -> token ids, the published Phi3VProcessor: one BOS per piece, image k as its token count of ids -k."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .errors import UserError
from .task import END

IGNORE = -100  # label of a token that is not learnt (PyTorch's and transformers' convention)
_TAG = re.compile(r"<\|image_(\d{1,9})\|>")  # more digits are no number of an image
_STOPS = (END, "<|endoftext|>", "</s>")
_ROLES = ("<|user|>", "<|assistant|>", "<|system|>")


@contextmanager
def _using(path: Path) -> Iterator[None]:
    """Turn what a tokenizer raises, a bare Exception or Rust's panic, which is none, into a UserError that names its file."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise UserError(f"{path} cannot be read as a tokenizer ({error}); copy it again from the published model") from None


class PromptProcessor:
    """Tokenises prompts that hold `<|image_k|>` tags. Reads `tokenizer.json` only, never remote code.

    Raises UserError where the folder has no readable tokenizer.
    """

    def __init__(self, folder: Path | str) -> None:
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{folder} has no tokenizer.json; copy it from the published model")
        self.path = path
        with _using(path):
            self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        stops = (self.tokenizer.token_to_id(token) for token in _STOPS)
        self.stop_ids: tuple[int, ...] = tuple(i for i in stops if i is not None)
        if self.tokenizer.token_to_id(END) is None:
            raise UserError(f"{path} has no {END} token; it is not Phi-3-vision's tokenizer")
        with _using(path):
            self._special = self._special_tokens()
            self._by_itself = Counter(self.tokenizer.encode("").ids)

    @cached_property
    def longest_token(self) -> int:
        """The most characters that one token stands for: a text takes no fewer tokens than it has so many."""
        return max(map(len, self.tokenizer.get_vocab(with_added_tokens=True)))

    def _special_tokens(self) -> dict[int, str]:
        """Those that act, by their ids; not what stands for an unknown character."""
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        added = self.tokenizer.get_added_tokens_decoder()
        acts = {i: token.content for i, token in added.items() if token.special or token.content in (*_STOPS, *_ROLES)}
        return {i: content for i, content in acts.items() if content not in (unknown, "<unk>")}

    def tokenize(self, text: str, image_tokens: Sequence[int]) -> list[int]:
        """Ids of `text`, where image k (from 1) takes `image_tokens[k-1]` ids -k.

        Raises UserError for a tag without an image or an image without a tag.
        """
        tags = [int(k) for k in _TAG.findall(text)]
        if set(tags) != set(range(1, len(image_tokens) + 1)):
            raise UserError(_tag_message(tags, len(image_tokens)))
        return self._encode(text, image_tokens)

    def _encode(self, text: str, image_tokens: Sequence[int]) -> list[int]:
        """Ids of the beginning of a text, whose later tags may be missing."""
        pieces = _TAG.split(text)
        ids = self._ids(pieces[0])
        for tag, piece in zip(map(int, pieces[1::2]), pieces[2::2]):
            ids += [-tag] * image_tokens[tag - 1]
            ids += self._ids(piece)
        return ids

    def _ids(self, text: str) -> list[int]:
        with _using(self.path):
            ids = list(self.tokenizer.encode(text).ids)
        # Text of users is defused by spelling. A tokenizer that folds letters would undo that.
        for i in self._special.keys() & set(ids):
            if ids.count(i) > text.count(self._special[i]) + self._by_itself[i]:
                raise UserError(
                    f"{self.path} makes the token {self._special[i]} of text that does not spell it; copy the file again from "
                    "the published model"
                )
        return ids

    def example(self, prompt: str, answer: str, image_tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels of prompt + answer + `<|end|>`; labels are -100 up to where the answer starts. int64 [T] each."""
        return self.conversation([(prompt, answer)], image_tokens)

    def conversation(self, exchanges: Sequence[tuple[str, str]], image_tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels of (prompt, answer) pairs in order, `<|end|>` after each answer. int64 [T] each.

        Each answer and its end token are labels, everything else is -100. Of one pair it is `example`.
        """
        text, spans = "", []
        for prompt, answer in exchanges:
            spans.append((len(text) + len(prompt), len(text) + len(prompt) + len(answer + END)))
            text += prompt + answer + END
        ids = self.tokenize(text, image_tokens)
        labels = np.full(len(ids), IGNORE, np.int64)
        for first, last in spans:
            # A prompt that does not end in a special token may merge with the answer: learn from the first id that differs.
            before = self._encode(text[:first], image_tokens)
            start = next((i for i, (a, b) in enumerate(zip(ids, before)) if a != b), len(before))
            end = len(ids) if last == len(text) else len(self._encode(text[:last], image_tokens))
            labels[start:end] = ids[start:end]
        return np.asarray(ids, np.int64), np.where(labels < 0, IGNORE, labels)

    def answer_lengths(self, prompt: str, answers: Sequence[str]) -> np.ndarray:
        """(tokens, labels) of `example` for each of many answers, without the tokens of images: int64 [N, 2].

        The answers hold no `<|image_k|>` tags, as `Task.answer` makes them.
        """
        *pieces, last = _TAG.split(prompt)
        fixed = sum(len(self._ids(piece)) for piece in pieces[::2])
        before = self._ids(last)
        lengths = np.zeros((len(answers), 2), np.int64)
        with _using(self.path):
            every = self.tokenizer.encode_batch_fast([last + answer + END for answer in answers])
        for i, encoded in enumerate(every):
            ids = encoded.ids
            start = next((k for k, (a, b) in enumerate(zip(ids, before)) if a != b), len(before))
            lengths[i] = fixed + len(ids), max(0, len(ids) - start)
        return lengths

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        with _using(self.path):
            return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def _tag_message(tags: list[int], images: int) -> str:
    missing = sorted(set(range(1, images + 1)) - set(tags))
    if missing:
        return f"the prompt has no <|image_{missing[0]}|> tag for image {missing[0]} of {images}; add the tag or drop the image"
    extra = next(tag for tag in tags if not 1 <= tag <= images)
    return f"the prompt has <|image_{extra}|> but only {images} image(s) were given; add the image or remove the tag"
