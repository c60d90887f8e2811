"""HookedBLIP: BLIP with a hook point at every step.

How an image and a question become the logits of an answer is in `forward_pass.py`. Here is what is done with it:
loading, inputs, answers, and looking inside.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from notice_lens.arguments import as_strings
from notice_lens.images import ImageLike
from notice_lens.models.blip import answers
from notice_lens.models.blip.config import BLIPConfig
from notice_lens.models.blip.forward_pass import ForwardPass
from notice_lens.models.blip.inputs import (
    IGNORED,
    BLIPInputs,
    text_inputs,
    to_common_length,
    to_pixel_values,
)
from notice_lens.models.blip.layout import BLIPReader
from notice_lens.models.blip.stacks import Stack
from notice_lens.models.cache import BLIPCache
from notice_lens.models.describe import CheckReport, HooksTable
from notice_lens.models.hook_names import HookName
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode, without_modes
from notice_lens.models.layout import Layout
from notice_lens.models.lens import Lens
from notice_lens.plain_text import printable


class HookedBLIP(ForwardPass):
    """BLIP for question answering, captions or image-text matching, with TransformerLens's hook points.

    Make one with `from_pretrained`, `from_hf` or `mini`. The numbers are Hugging Face's; one difference is deliberate:
    the question's padding is masked in the decoder's cross-attention too, so a batch of questions of unequal length
    gets the answers that each gets alone (Hugging Face's `generate` lets the decoder look at padding).

    Attributes:
        cfg: One config per stack: `model.cfg.text.n_heads`.
        vision: The image encoder.
        text: The question encoder (not for captions).
        decoder: The answer decoder (not for matching).
        head: From the last states to logits.
        processor: Hugging Face's, for images and text; None for an in-memory model without one.
        enc_token: Whether `prepare` replaces a question's `[CLS]` by `[ENC]`, as the original Salesforce code did
            and Hugging Face does not.
    """

    def __init__(self, cfg: BLIPConfig, processor: Any = None, *, enc_token: bool = False):
        super().__init__(cfg)
        self.processor = processor
        self.enc_token = enc_token

    # Loading

    @classmethod
    @outside_inference_mode
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
        revision: str | None = None,
        processor: Any = None,
        enc_token: bool = False,
    ) -> "HookedBLIP":
        """The model of a Hugging Face hub id or a local folder.

        Args:
            name_or_path: For instance `Salesforce/blip-vqa-base`, or a folder with `config.json` and weights.
            device: Where to put it, for instance `cuda`. Experimental, as no GPU was at hand.
            dtype: float32, bfloat16, float16 or float64, as torch's dtype or its name.
            revision: The hub's branch, tag or commit.
            processor: A `BlipProcessor`, or the folder or hub id of one; None takes that beside the weights.
            enc_token: Replace each question's `[CLS]` by `[ENC]`, as the original Salesforce code did.

        Raises:
            FileNotFoundError: There is no such folder or model, or no weights in it.
            ValueError: A file cannot be read, a weight or config field is missing or not accounted for (all of them are
                listed), weights are NaN, or the tokenizer has words that the model has no embedding for.
        """
        from notice_lens.models.blip.weights import load_pretrained

        return load_pretrained(cls, name_or_path, revision, enc_token, processor).to(
            device=torch.device(device), dtype=_dtype(dtype)
        )

    @classmethod
    @outside_inference_mode
    def from_hf(
        cls,
        hf_model: nn.Module,
        processor: Any = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        enc_token: bool = False,
    ) -> "HookedBLIP":
        """The port of an in-memory Hugging Face model, whose weights are copied: it is never touched.

        Args:
            hf_model: A `BlipForQuestionAnswering`, `BlipForConditionalGeneration` or `BlipForImageTextRetrieval`, or a
                TransformerBridge's `original_model`.
            processor: Its `BlipProcessor`; without one, `prepare` and `generate` cannot be used.
            device: Where to put the copy; None leaves it where the model is.
            dtype: What to keep the copy in; None takes the model's.
            enc_token: As `from_pretrained`.

        Raises:
            TypeError: The model is wrapped: compiled, parallel, or around adapters; the message says what to do.
            ValueError: The class is another one, its weights are quantised or on the meta device, or as
                `from_pretrained`.
        """
        from notice_lens.models.blip.weights import port

        model = port(cls, hf_model, processor, enc_token)
        return model.to(
            device=model.device if device is None else torch.device(device),
            dtype=model.dtype if dtype is None else _dtype(dtype),
        )

    @classmethod
    def mini(
        cls,
        world: Literal["drawn", "pictures"] = "drawn",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
    ) -> "HookedBLIP":
        """Return a small trained model that ships with the package: question answering about a mini world.

        Args:
            world: The pictures that it answers about: `drawn` (shapes and faces), or `pictures` (emoji on grounds).
                `mini_world(task, world=world)` gives pairs for it.
            device: Where to put it.
            dtype: What to compute in; the weights are kept in bfloat16.

        Raises:
            ValueError: There is no such world.
            FileNotFoundError: This installation came without the weights.
        """
        from notice_lens.mini import mini_folder

        model = cls.from_pretrained(mini_folder(world), device=device, dtype=dtype)
        # Results say whose they are: a name, and not where this machine keeps the package.
        name = "notice-lens mini" if world == "drawn" else "notice-lens mini BLIP"
        model.cfg = replace(model.cfg, name_or_path=name)
        return model

    # Inputs

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        return self._processor_for("a tokenizer").tokenizer

    def _processor_for(self, what: str) -> Any:
        if self.processor is None:
            raise ValueError(f"{what} is needed, and this model has no processor: from_hf(model, processor) takes one")
        return self.processor

    @without_modes()
    def prepare(
        self,
        images: ImageLike | Sequence[ImageLike] | Mapping[str, Tensor],
        questions: str | Iterable[str] = "",
        answers: str | Iterable[str] | None = None,
        *,
        image_size: int | tuple[int, int] | None = None,
    ) -> BLIPInputs:
        """The tensors of images and questions, on the model's device; `inputs.py` says what they mean.

        Args:
            images: One or many: PIL images, paths, arrays or uint8 tensors; preprocessed ones as {"pixel_values": ...}.
            questions: One or many, of any length; for captions the prompts, for matching the texts. Many are a list, an
                array, a Series or a column of a data set.
            answers: Answers for the decoder to read, for logits of each of their tokens. None for `[DEC]` alone.
            image_size: Side, or (height, width), in pixels, instead of the model's: positions are then interpolated.

        A single image, question or answer goes with all of the others.

        Raises:
            ValueError: Numbers differ, or an image cannot be read.
        """
        if isinstance(images, BLIPInputs):
            raise TypeError(
                "expected images and questions, got BLIPInputs, which are prepared already: run model(inputs)"
            )
        if questions is not None and not isinstance(questions, Iterable):
            raise TypeError(
                f"expected questions as text, got {type(questions).__name__}; images come first: "
                "model.prepare(image, 'is it red?')"
            )
        processor = self._processor_for("prepare")
        texts = as_strings("questions", questions)
        said = None if answers is None else as_strings("answers", answers)
        pixels = to_pixel_values(images, processor.image_processor, image_size)
        columns = to_common_length(images=list(pixels), questions=texts, answers=said)
        enc_token_id = self._enc_token_id() if self.enc_token else None
        tensors = text_inputs(self.cfg, processor.tokenizer, columns["questions"], columns["answers"], enc_token_id)
        self._check_known(tensors)
        return BLIPInputs(
            pixel_values=torch.stack(columns["images"]), **tensors, interpolate_pos_encoding=image_size is not None
        ).to(self.device)

    def preprocess(
        self,
        images: ImageLike | Sequence[ImageLike] | Mapping[str, Tensor],
        *,
        image_size: int | tuple[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """Return images resized and normalised once for many runs, as `prepare` takes them; arguments as there."""
        image_processor = self._processor_for("an image processor").image_processor
        return {"pixel_values": to_pixel_values(images, image_processor, image_size)}

    # What positions are

    @property
    def _reader(self) -> BLIPReader:
        side = self.cfg.image_size // self.cfg.patch_size
        tokenizer = None if self.processor is None else self.processor.tokenizer
        return BLIPReader(self.cfg.kind, tokenizer, (side, side))

    def layout(self, inputs: BLIPInputs | Mapping[str, Any], prompts: Sequence[str] | None = None) -> Layout:
        """Return the layout of prepared inputs.

        Args:
            inputs: What `prepare` gives.
            prompts: The prompts' strings, where positions of words are wanted.

        Raises:
            ValueError: The prompts have other numbers of tokens than the inputs.
        """
        return self._reader.layout_of_inputs(self.cfg, BLIPInputs.of(inputs).check(self.cfg), prompts)

    def layout_of(
        self,
        prompts: Sequence[str],
        answers: Sequence[str] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Layout:
        """Return the layout that inputs will have, without any images: every picture is resized to the model's size.

        Args:
            prompts: The prompts.
            answers: The answer to teacher-force after each; None for none.
            sizes: Ignored.
        """
        self._processor_for("a tokenizer")
        return self._reader.layout_of(prompts, answers)

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Return the tokens of an answer; they are the same after every prompt."""
        self._processor_for("a tokenizer")
        return self._reader.answer_ids(prompt, answer)

    def _check_known(self, tensors: Mapping[str, Any]) -> None:
        """Raise ValueError for a word without an embedding, which was added to the tokenizer alone."""
        d_vocab = self.stack(self.cfg.stacks[1]).cfg.d_vocab or 0
        for ids in (tensors["input_ids"], tensors["answer_ids"]):
            if ids is not None and int(ids.max()) >= d_vocab:
                word = self.tokenizer.convert_ids_to_tokens(int(ids.max()))
                raise ValueError(
                    f"the tokenizer has a word {word!r} that the model has no embedding for: it knows {d_vocab} words. "
                    "Words were added to the tokenizer alone; add them to the model too, or use its own tokenizer"
                )

    def _enc_token_id(self) -> int:
        found = self.tokenizer.convert_tokens_to_ids("[ENC]")
        if found is not None and found != self.tokenizer.unk_token_id:
            return found
        # Published tokenizers are BERT's own; BLIP's vocabulary adds [DEC] and [ENC].
        following, d_vocab = self.cfg.dec_token_id + 1, self.stack("text").cfg.d_vocab or 0
        if following >= d_vocab:
            raise ValueError(f"enc_token=True, but neither tokenizer nor vocabulary ({d_vocab} words) has an [ENC]")
        return following

    # Answers

    def generate(
        self, images: ImageLike | Sequence[ImageLike], questions: str | Iterable[str] = "", *, max_new_tokens: int = 20
    ) -> list[str]:
        """The greedy answers, or captions, which begin with their prompt.

        Args:
            images: As `prepare`.
            questions: As `prepare`.
            max_new_tokens: Where to stop an answer that does not end; the decoder's last position stops it as well.
        """
        return answers.greedy(self, self.prepare(images, questions), max_new_tokens)

    def rank_answers(
        self, images: ImageLike | Sequence[ImageLike], questions: str | Iterable[str], candidates: Iterable[str]
    ) -> Float[Tensor, "batch candidate"]:
        """Log-probability of each candidate answer, in nats, summed over its tokens and the closing `[SEP]`.

        Args:
            images: As `prepare`.
            questions: As `prepare`.
            candidates: Answers to compare, the same for every question.
        """
        return answers.rank(self, self.prepare(images, questions), as_strings("candidates", candidates))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings outside of config and processor that change results: the token before a matching prompt."""
        return {"enc_token": self.enc_token}

    def image_length(self, stack: str, image: ImageLike) -> int:
        """Return how many positions a picture has in a stack; layouts say it too."""
        return self.layout_of(["?"]).length(stack, 0)

    def teacher_forced(self, prompts: Sequence[str], answers: Sequence[str]) -> bool:
        """Return whether answers have to be in the inputs to be measured: those of captions or of several tokens."""
        if self.cfg.kind != "vqa":
            return self.cfg.kind == "caption"
        return any(len(self.answer_ids("", answer)) != 1 for answer in set(answers))

    def answer_entries(self, prompts: Sequence[str], answers: Sequence[str]) -> Int[Tensor, " answer"]:
        """Return the read-out's entry for each answer: its first token; of matching 0 (no match) or 1 (match)."""
        if self.cfg.kind == "match":
            return torch.tensor([int(answer == "match") for answer in answers], dtype=torch.long)
        return torch.tensor([self.answer_ids("", answer)[0] for answer in answers], dtype=torch.long)

    def answer_targets(self, inputs: BLIPInputs) -> Int[Tensor, "batch answer_pos"]:
        """Return the answer's token that each logit has to predict, without the closing `[SEP]`; -100 elsewhere.

        Raises:
            ValueError: The inputs have no answers.
        """
        targets = answers.targets_of(inputs)
        return targets.masked_fill(targets == self.cfg.sep_token_id, IGNORED)

    @one_thread_at_a_time
    def answer_log_probs(self, inputs: BLIPInputs) -> Float[Tensor, " batch"]:
        """Return the log-probability of each answer in the inputs, its closing `[SEP]` included, in nats.

        Raises:
            ValueError: The inputs have no answers.
        """
        return answers.answer_log_probs(self(inputs), answers.targets_of(inputs))

    def greedy_ids(self, inputs: BLIPInputs, max_new_tokens: int = 20) -> list[list[int]]:
        """Return the tokens of each greedy answer, without `[DEC]` and `[SEP]`; a caption begins with its prompt."""
        return answers.greedy_ids(self, inputs, max_new_tokens)

    @one_thread_at_a_time
    @torch.no_grad()
    def mean_image_states(self, images: Sequence[ImageLike]) -> Float[Tensor, "image d_model"]:
        """Return the mean over patches of the image encoder's states, without the class token; float32, on the CPU.

        Args:
            images: As `prepare`.
        """
        inputs = BLIPInputs(pixel_values=self.preprocess(images)["pixel_values"]).to(self.device)
        return self.run_stack("vision", inputs)[:, 1:].float().mean(1).cpu()

    # Looking inside

    @one_thread_at_a_time
    def lens(self, name: str, inputs: BLIPInputs | Mapping[str, Any], axis: str = "query") -> Lens:
        """Return a view of one stack under TransformerLens's names, so that TransformerLens's utilities run on it.

        Args:
            name: `vision.attn`, `text.attn`, `text.cross_attn`, `decoder.attn` or `decoder.cross_attn`.
            inputs: The lens's inputs; everything before its stack is computed now, once.
            axis: `query`: positions of the stack itself. `source`: positions that cross-attention looks at, with
                its keys and values.
        """
        return Lens(self, name, BLIPInputs.of(inputs), axis)

    def make_cache(self, cache: dict[str, Tensor], has_batch_dim: bool, inputs: Any = None) -> BLIPCache:
        """Make the cache of a run, with a view for each stack."""
        known = None if inputs is None else BLIPInputs.of(inputs).to(self.device).check(self.cfg).ordinary()
        return BLIPCache(cache, self, has_batch_dim, known)

    def hooks_table(self) -> HooksTable:
        """Every hook point with its shape in words and the Hugging Face tensor that it is."""
        from notice_lens.models.describe import hooks_table

        return hooks_table(self)

    def check(self, inputs: BLIPInputs | Mapping[str, Any] | None = None, *, progress: bool = True) -> CheckReport:
        """Run the model's own self-tests; see `notice_lens.models.check`.

        Args:
            inputs: What to run on, two images or more; None takes noise and a made-up question.
            progress: Whether to show a progress bar.
        """
        from notice_lens.models.check import check

        return check(self, inputs, progress)

    @one_thread_at_a_time
    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Compute `hook_result`, what each head writes, in every attention module, or stop doing so."""
        for stack in self.cfg.stacks:
            set_attention_switch(self.stack(stack), "use_attn_result", use_attn_result)

    @one_thread_at_a_time
    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Give each head its own copies of its inputs, hooked at `hook_{q,k,v}_input`, or stop doing so.

        In the vision stack the copies are made before `ln1`, whose hook points then fire once for each of the three,
        with a head axis.
        """
        for stack in self.cfg.stacks:
            set_attention_switch(self.stack(stack), "use_split_qkv_input", use_split_qkv_input)

    def explain_missing(self, name: str) -> str:
        """Explain why a name is not a hook point, and which stack's name a TransformerLens name needs."""
        if HookName.parse(name).stack is None:
            guesses = [f"{stack}.{name}" for stack in self.cfg.stacks if f"{stack}.{name}" in self.hook_dict]
            if guesses:
                return f"no hook point {name!r}: names start with a stack; nearest: {', '.join(guesses)}"
        return super().explain_missing(name)

    def __repr__(self) -> str:
        configs = [self.stack(name).cfg for name in self.cfg.stacks]
        stacks = [f"  {cfg.name}: {cfg.n_layers} layers x {cfg.n_heads} heads of {cfg.d_head}" for cfg in configs]
        origin = self.cfg.name_or_path or "an in-memory model"
        header = f"HookedBLIP: {self.cfg.kind!r} from {printable(origin)}, {self.dtype} on {self.device}"
        return "\n".join([header, *stacks])


def set_attention_switch(stack: Stack, switch: str, on: bool) -> None:
    """Set a switch in every attention module of a stack."""
    from notice_lens.models.blip.attention import Attention

    for module in stack.modules():
        if isinstance(module, Attention):
            setattr(module, switch, bool(on))


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return the dtype of that name. Raises ValueError if it is not a floating-point one."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"no dtype {dtype!r} for a model; expected float32, bfloat16, float16 or float64")
    return found
