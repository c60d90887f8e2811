"""Prompts and answers as a hosted model's processor reads them: their tokens, and the layout of the row.

Nothing is guessed about a family: a prompt is laid out by sending it through the processor, with a picture of the
right size in the picture's place. Every prompt, answer and size is read once.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from notice_lens.models.layout import Layout
from notice_lens.models.vlm.families import family_of
from notice_lens.models.vlm.inputs import prepare, render, with_answer
from notice_lens.models.vlm.layout import layout_of_inputs
from notice_lens.models.vlm.tiles import coordinates

ImageSize = tuple[int, int]
SIDE = 224
"""Side of the blank picture where sizes do not matter, in pixels."""
UNEQUAL = ((SIDE, SIDE), (SIDE, 3 * SIDE))
"""Heights and widths by which it is found out whether sizes matter."""
PROMPTS_KEPT = 2**16
"""How many prompts and answers are kept."""


class VLMReader:
    """The decisions of a processor: a `TextReader`.

    Args:
        processor: Hugging Face's processor.
        config: The model's config.
    """

    def __init__(self, processor: Any, config: Any) -> None:
        self.processor, self.config = processor, config
        self.family = family_of(config)
        self._one = lru_cache(PROMPTS_KEPT)(self._laid_out)
        self._ids = lru_cache(PROMPTS_KEPT)(self._answer_ids)

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @cached_property
    def image_sizes_matter(self) -> bool:
        """True if a wide picture becomes another number of positions than a square one."""
        try:
            counts = {self._one("?", None, size).length("language", 0) for size in UNEQUAL}
        except ValueError:
            return True  # whoever prepares a prompt is told what is wrong
        return len(counts) > 1

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Return the tokens of an answer as they follow the prompt; see `inputs.with_answer`.

        Raises:
            ValueError: The answer's first letters are merged into the prompt's last token.
        """
        return list(self._ids(prompt, answer))

    def _answer_ids(self, prompt: str, answer: str) -> tuple[int, ...]:
        if self.family.answer_argument:  # read by itself, after the prompt's last token
            return tuple(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        rendered = render(self.processor, prompt, self.family.plain_prompt)
        return tuple(with_answer(self.tokenizer, rendered, answer)[1])

    def layout_of(
        self, prompts: Sequence[str], answers: Sequence[str] | None = None, sizes: Sequence[ImageSize] | None = None
    ) -> Layout:
        """Return the layout that inputs will have, without preparing their pictures.

        Args:
            prompts: Before the chat template.
            answers: The answer to teacher-force after each; None for none.
            sizes: Height and width of each picture in pixels; None where sizes do not matter.

        Raises:
            ValueError: There is no place for a picture in a prompt, or its words are not found in the row.
        """
        said = [None] * len(prompts) if answers is None else answers
        shown = [(SIDE, SIDE)] * len(prompts) if sizes is None else [(int(h), int(w)) for h, w in sizes]
        parts = [self._one(*own) for own in zip(prompts, said, shown, strict=True)]
        return Layout(
            {"language": [part.stacks["language"][0] for part in parts]},
            read_out=tuple(part.read_out[0] for part in parts),
            prompt_stack="language",
            roles=tuple(part.roles[0] for part in parts),
            prompts=tuple(prompts),
            offsets=tuple((part.offsets or ((),))[0] for part in parts),
        )

    def _laid_out(self, prompt: str, answer: str | None, size: ImageSize) -> Layout:
        height, width = size
        answers = None if answer is None else [answer]
        picture = coordinates(height, width)
        inputs = prepare(self.processor, self.config, [picture], [prompt], answers, allow_unequal=True)
        return layout_of_inputs(self.processor, self.config, inputs, [prompt], coded=True)
