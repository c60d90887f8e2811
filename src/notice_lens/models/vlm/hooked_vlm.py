"""HookedVLM: any Hugging Face vision-language model, hosted as it is, with TransformerLens's hook points.

The modules are Hugging Face's own: nothing is copied, renamed or left on them. How they run with hooks is in
`forward_pass.py`, where the hook points are in `points.py`, how they see a tensor in `taps.py`, attention in
`attention.py`. Here is everything around a run: loading, pictures and prompts, answers, weights, and ways to look.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from notice_lens.errors import one_of
from notice_lens.images import ImageLike
from notice_lens.models.bridge import refuse_bridge, without_bridges
from notice_lens.models.hook_names import IMAGE_STACK, QFORMER, HookName
from notice_lens.models.in_use import one_thread_at_a_time, without_modes
from notice_lens.models.layout import Layout
from notice_lens.models.vlm import inputs as vlm_inputs
from notice_lens.models.vlm.forward_pass import HostedForwardPass
from notice_lens.models.vlm.points import HostedBlock, matrix, stacked
from notice_lens.models.vlm.reader import VLMReader

if TYPE_CHECKING:
    from notice_lens.models.describe import CheckReport, HooksTable
    from notice_lens.models.vlm.cache import VLMCache
    from notice_lens.models.vlm.lens import VLMLens

_ELSEWHERE = {
    "blocks": "model.language.blocks, or model.vision.blocks for the tower",
    "embed": "model.hf_model.get_input_embeddings()",
    "unembed": "model.hf_model.get_output_embeddings()",
    "ln_final": "model.language.ln_final for its hook point",
    "W_E": "model.hf_model.get_input_embeddings().weight",
    "W_in": "the MLP's own weights, in model.hf_model",
    "W_out": "the MLP's own weights, in model.hf_model",
    "W_gate": "the MLP's own weights, in model.hf_model",
    "to_tokens": "model.prepare(image, prompt), which gives input_ids among the rest",
    "to_str_tokens": "model.tokenizer.convert_ids_to_tokens(inputs['input_ids'][0])",
    "to_string": "model.tokenizer.decode(ids)",
    "to_single_token": "model.tokenizer(text, add_special_tokens=False)['input_ids']",
    "loss_fn": "a loss of the logits that the model returns",
    "model": "model.hf_model",
}
"""What people who come from TransformerLens type, and what to write instead."""


class HookedVLM(HostedForwardPass):
    """A Hugging Face vision-language model with hook points.

    Make one with `from_pretrained` or `from_hf`. It runs on what a Hugging Face processor gives, which `prepare` makes
    from pictures and prompts, and returns logits [batch, pos, d_vocab].

    Attributes:
        hf_model: Hugging Face's model, the very one that was given.
        processor: Hugging Face's, or None.
        family: The peculiarities of its family.
        language: The language model's hook points: `model.language.blocks[3].attn.hook_z`.
        vision: The vision tower's.
        qformer: The Q-Former's, in models that have one.
        projector: From the tower to the language model.
        image_rows: How a packed tower's tensors are cut into images.
    """

    def __init__(self, hf_model: PreTrainedModel, processor: Any = None, *, no_processor: str = ""):
        super().__init__(hf_model)
        self._reader: VLMReader | None = None
        self._no_processor = no_processor or "from_hf(model, processor) takes one"
        self.processor = processor
        self.configure(processor is not None and self.reader("sizes").image_sizes_matter)

    # Loading

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = "auto",
        device_map: Any = None,
        quantization_config: Any = None,
        processor: Any = None,
        **options: Any,
    ) -> "HookedVLM":
        """Load a model by its hub id or folder, through `AutoModelForImageTextToText` and `AutoProcessor`.

        Args:
            name_or_folder: For instance `llava-hf/llava-1.5-7b-hf`, or a folder with `config.json` and weights.
            revision: The hub's branch, tag or commit.
            dtype: float32, bfloat16, float16 or float64, as torch's dtype or its name; `auto` is what was saved.
            device_map: As transformers takes it, for instance `cuda` or `auto`.
            quantization_config: As transformers takes it, for instance `BitsAndBytesConfig(load_in_4bit=True)`.
            processor: A processor to use instead of the one beside the weights.
            **options: Whatever else `from_pretrained` of transformers takes.

        Raises:
            FileNotFoundError: There is no such folder or model, or no weights in it.
            ValueError: It is not a vision-language model, it cannot be hooked, or weights are missing.
        """
        from notice_lens.models.vlm.loading import load_model

        model, found, why = load_model(
            name_or_folder,
            revision=revision,
            dtype=dtype,
            device_map=device_map,
            quantization_config=quantization_config,
            **options,
        )
        return cls(model, found if processor is None else processor, no_processor=why)

    @classmethod
    def mini(cls, *, device: torch.device | str = "cpu", dtype: torch.dtype | str = torch.float32) -> "HookedVLM":
        """Load the small trained LLaVA that ships with the package; it answers questions about the picture world.

        `mini_world(task, world="pictures")` gives pairs for it.

        Args:
            device: Where to put it.
            dtype: What to compute in; the weights are kept in bfloat16.

        Raises:
            FileNotFoundError: This installation came without the weights.
        """
        from notice_lens.mini import llava_folder
        from notice_lens.models.vlm.loading import quiet_loading

        with quiet_loading():
            model = cls.from_pretrained(llava_folder(), dtype=dtype)
        cast(nn.Module, model.hf_model).to(device)
        # Results say whose they are: a name, and not where this machine keeps the package.
        model.cfg = replace(model.cfg, name_or_path="notice-lens mini LLaVA")
        return model

    @classmethod
    def from_hf(cls, hf_model: nn.Module, processor: Any = None) -> "HookedVLM":
        """Host a model in memory. Its weights are not copied, and hooks that are on it stay where they are.

        Args:
            hf_model: As `AutoModelForImageTextToText` loads it, or a TransformerBridge's `original_model`.
            processor: Its processor; without one, `prepare` and `generate` cannot be used.

        Raises:
            TypeError: It is not one of transformers' models.
            ValueError: It is not a vision-language model, or it cannot be hooked; the message says why.
        """
        refuse_bridge(hf_model)
        hf_model = without_bridges(hf_model)
        if not isinstance(hf_model, PreTrainedModel):
            raise TypeError(
                f"expected a model of transformers, got {type(hf_model).__name__}; of a compiled, parallel or adapted "
                "model, give what is inside: model._orig_mod, model.module or model.base_model.model"
            )
        return cls(hf_model, processor)

    # What it is

    @property
    def settings(self) -> dict[str, Any]:
        """Settings outside of config and processor that change results: how attention is computed, and the chat."""
        config = self.config.get_text_config()
        return {
            "attention": str(getattr(config, "_attn_implementation", "")),
            "chat_template": str(getattr(self.processor, "chat_template", "") or ""),
        }

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self._processor_for("a tokenizer").tokenizer

    def preprocess(self, images: Sequence[ImageLike]) -> list[Any]:
        """Return pictures read and turned to RGB, as `prepare` takes them too."""
        return vlm_inputs.read_pictures(images, None)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in _ELSEWHERE:
                raise AttributeError(f"a HookedVLM has no {name!r}; write {_ELSEWHERE[name]}") from None
            raise

    def __repr__(self) -> str:
        language, vision, qformer = self.cfg.language, self.cfg.vision, self.cfg.qformer
        lines = [
            f"HookedVLM: {self.family.name}, {self.dtype} on {self.device}",
            f"  vision: {vision.n_layers} layers x {vision.n_heads} heads of {vision.d_head}",
        ]
        if qformer is not None:
            heads = f"{qformer.n_layers} layers x {qformer.n_heads} heads of {qformer.d_head}"
            lines.append(f"  qformer: {qformer.n_ctx} learned queries, {heads}")
        lines.append(
            f"  language: {language.n_layers} layers x {language.n_heads} heads of {language.d_head}, "
            f"{language.n_key_value_heads} of keys and values"
        )
        return "\n".join(lines)

    # Running

    @without_modes()
    def prepare(
        self,
        images: ImageLike | Sequence[ImageLike],
        prompts: str | Iterable[str],
        answers: str | Iterable[str] | None = None,
        *,
        image_size: int | tuple[int, int] | None = None,
        allow_unequal: bool = False,
    ) -> Any:
        """Return the model's inputs, on its device: Hugging Face's mapping of tensors; see `inputs.prepare`.

        Args:
            images: One or many: PIL images, paths, bytes, arrays or tensors.
            prompts: One or many, which go through the chat template unless they hold an image token already.
            answers: Written after the rendered prompts, for the logits of their tokens.
            image_size: Side, or (height, width), in pixels, to which pictures are resized first.
            allow_unequal: Whether pictures may have unequal numbers of image tokens.

        Raises:
            ValueError: There is no processor, no picture, no place for it, or numbers differ.
        """
        if isinstance(images, Mapping):
            raise TypeError(
                "expected pictures and prompts, got a mapping: it is prepared already, so run model(inputs)"
            )
        prepared = vlm_inputs.prepare(
            self._processor_for("prepare"),
            self.config,
            images,
            prompts,
            answers,
            image_size=image_size,
            allow_unequal=allow_unequal,
        )
        return vlm_inputs.on_device(prepared, self.device, self.dtype)

    def layout(self, inputs: Mapping[str, Any], prompts: Sequence[str] | None = None) -> Layout:
        """Return which positions of the language model's row are image, prompt, answer and the rest.

        Args:
            inputs: What `prepare` gives.
            prompts: The prompts' strings, before the chat template; without them all words are special positions.

        Raises:
            ValueError: The prompts are not those of the inputs.
        """
        from notice_lens.models.vlm.layout import layout_of_inputs

        processor = None if prompts is None else self._processor_for("a layout with words")
        return layout_of_inputs(processor, self.config, inputs, prompts)

    # Prompts and answers, as the protocol asks for them

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Return the tokens of an answer as they follow the prompt: after `ASSISTANT:`, `red` is `▁red`.

        Raises:
            ValueError: The answer's first letters are merged into the prompt's last token.
        """
        return self.reader("answers").answer_ids(prompt, answer)

    def layout_of(
        self,
        prompts: Sequence[str],
        answers: Sequence[str] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Layout:
        """Return the layout that inputs will have, without preparing pictures; see `VLMReader.layout_of`."""
        return self.reader("a layout").layout_of(prompts, answers, sizes)

    def teacher_forced(self, prompts: Sequence[str], answers: Sequence[str]) -> bool:
        """Return whether answers have to be in the inputs to be measured: where one has several tokens."""
        return any(len(self.answer_ids(prompt, said)) > 1 for prompt, said in zip(prompts, answers, strict=True))

    def answer_entries(self, prompts: Sequence[str], answers: Sequence[str]) -> Int[Tensor, " answer"]:
        """Return the entry of the read-out's logits that stands for each answer: its first token, in context."""
        first = [self.answer_ids(prompt, said)[0] for prompt, said in zip(prompts, answers, strict=True)]
        return torch.tensor(first, dtype=torch.long)

    @one_thread_at_a_time
    @torch.no_grad()
    def greedy_ids(self, inputs: Mapping[str, Any], max_new_tokens: int = 20) -> list[list[int]]:
        """Return the tokens of each greedy answer, without the closing one."""
        ids = self.generate_ids(inputs, do_sample=False, max_new_tokens=max_new_tokens)
        ends = getattr(self.hf_model.generation_config, "eos_token_id", None)
        closing = {ends} if isinstance(ends, int) else set(ends or ())
        rows = ids[:, inputs["input_ids"].shape[1] :].tolist()
        return [list(takewhile(lambda token: token not in closing, row)) for row in rows]

    @one_thread_at_a_time
    @torch.no_grad()
    def image_length(self, stack: str, image: ImageLike) -> int:
        """Return how many positions a picture has in the tower (`vision`) or behind the `projector`, by a run.

        In a `qformer` it has one for each learned query. Positions of several rows of the tower, a picture's tiles, are
        counted one after the other.
        """
        if stack == QFORMER and self.cfg.qformer is not None:
            return self.cfg.qformer.n_ctx
        hook = "vision.blocks.0.hook_resid_pre" if stack == IMAGE_STACK else "projector.hook_out"
        _, cache = self.run_with_cache(self.prepare(image, "?"), names_filter=hook)
        return cache[hook].shape[:2].numel()

    @one_thread_at_a_time
    @torch.no_grad()
    def embeddings(self, name: str, inputs: Mapping[str, Any]) -> Float[Tensor, "row pos d_model"]:
        """Return the embeddings of the words (`language`), or of the image as the language model is given it.

        Args:
            name: `language` or `projector`.
            inputs: What `prepare` gives.

        Raises:
            ValueError: Another stack was asked for.
        """
        hooks = {HookName.parse(hook).stack: hook for hook in self.cfg.noise_hooks}
        if name not in hooks:
            raise ValueError(one_of("stack with embeddings", name, [*map(str, hooks)]))
        # What a tower needs, and what stands for an image among the words, differs by family: the model knows it.
        _, cache = self.run_with_cache(inputs, names_filter=hooks[name])
        return cache[hooks[name]]

    @one_thread_at_a_time
    @torch.no_grad()
    def mean_image_states(self, images: Sequence[ImageLike]) -> Float[Tensor, "image d_model"]:
        """Return the mean over image positions of what the language model is given of each picture, float32."""
        means = []
        for image in images:
            _, cache = self.run_with_cache(self.prepare(image, "?"), names_filter="projector.hook_out")
            means.append(cache["projector.hook_out"].float().flatten(0, -2).mean(0))
        return torch.stack(means)

    def reader(self, what: str) -> VLMReader:
        """Return the processor's decisions. Raises ValueError, naming what needs them, if there is no processor."""
        processor = self._processor_for(what)
        if self._reader is None or self._reader.processor is not processor:
            self._reader = VLMReader(processor, self.config)
        return self._reader

    def _processor_for(self, what: str) -> Any:
        if self.processor is None:
            raise ValueError(f"{what} needs a processor, and this model has none: {self._no_processor}")
        return self.processor

    def generate(
        self,
        images: ImageLike | Sequence[ImageLike],
        prompts: str | Iterable[str],
        *,
        max_new_tokens: int = 20,
        **options: Any,
    ) -> list[str]:
        """Return the answers, by Hugging Face's own `generate`; hooks fire at every step.

        Args:
            images: As `prepare`.
            prompts: As `prepare`.
            max_new_tokens: Where to stop an answer that does not end.
            **options: Whatever else `generate` of transformers takes; the default is greedy.
        """
        inputs = self.prepare(images, prompts, allow_unequal=True)
        ids = self.generate_ids(inputs, **{"do_sample": False, "max_new_tokens": max_new_tokens, **options})
        answers = ids[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    # Weights

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding, [d_model, d_vocab]."""
        return matrix(self._parts[0].unembed).T

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights of every layer of the language model that looks at its own positions."""
        return self._weights("W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer kv_head d_model d_head"]:
        """Key weights, as `W_Q`; key-value heads keep their own count."""
        return self._weights("W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer kv_head d_model d_head"]:
        """Value weights, as `W_K`."""
        return self._weights("W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights, as `W_Q`."""
        return self._weights("W_O")

    def _weights(self, name: str) -> Tensor:
        blocks = [cast(HostedBlock, block) for block in self.language.blocks]
        return stacked([getattr(block.attn, name) for block in blocks if not block.is_cross])

    # Looking inside

    @one_thread_at_a_time
    def lens(self, name: str, inputs: Mapping[str, Any]) -> "VLMLens":
        """Return one stack under TransformerLens's own names, for TransformerLens's own utilities.

        Args:
            name: `language.attn`, or `language.cross_attn` where there is cross-attention.
            inputs: What every run of the lens uses, picture included.

        Raises:
            KeyError: There is no such lens.
        """
        from notice_lens.models.vlm.lens import VLMLens

        return VLMLens(self, name, inputs)

    def make_cache(self, cache: dict[str, Tensor], has_batch_dim: bool, inputs: Any = None) -> "VLMCache":
        """Return the cache of a run, with a view for each stack."""
        from notice_lens.models.vlm.cache import VLMCache

        return VLMCache(cache, self, has_batch_dim, inputs)

    def hooks_table(self) -> "HooksTable":
        """Return every hook point with its shape in words and the tensor of Hugging Face's that it is."""
        from notice_lens.models.vlm.table import hooks_table

        return hooks_table(self)

    def check(self, inputs: Mapping[str, Any] | None = None, *, progress: bool = True) -> "CheckReport":
        """Run the model's own self-tests; see `notice_lens.models.vlm.check`.

        Args:
            inputs: What to run on, one example with a picture; None makes a picture of noise, through the processor.
            progress: Whether to show a progress bar.
        """
        from notice_lens.models.vlm.check import check

        return check(self, inputs, progress)
