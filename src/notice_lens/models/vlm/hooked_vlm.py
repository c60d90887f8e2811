"""HookedVLM: any Hugging Face vision-language model, hosted as it is, with TransformerLens's hook points.

The modules are Hugging Face's own: nothing is copied, renamed or left on them. A run attaches what is watched, runs the
model, and takes it off again, so a model without hooks computes exactly what Hugging Face's does. Where the hook points
are is in `points.py`, how they see a tensor in `taps.py`, attention in `attention.py`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from notice_lens.models.hook_names import IMAGE_STACK, HookName, nearest
from notice_lens.models.hooked_module import HookedModule
from notice_lens.models.hooks import CopyingHookPoint
from notice_lens.models.in_use import InUse, one_thread_at_a_time, without_modes
from notice_lens.models.layout import Layout
from notice_lens.models.vlm import inputs as vlm_inputs
from notice_lens.models.vlm.anatomy import model_parts
from notice_lens.models.vlm.attention import attention_by
from notice_lens.models.vlm.config import config_of
from notice_lens.models.vlm.families import Family, family_of
from notice_lens.models.vlm.points import (
    AnyTap,
    HostedAttention,
    HostedBlock,
    HostedVisionStack,
    LanguageStack,
    Projector,
    matrix,
    stacked,
)
from notice_lens.models.vlm.reader import VLMReader
from notice_lens.models.vlm.taps import AttentionTap, Rows

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


class HookedVLM(HookedModule):
    """A Hugging Face vision-language model with hook points.

    Make one with `from_pretrained` or `from_hf`. It runs on what a Hugging Face processor gives, which `prepare` makes
    from pictures and prompts, and returns logits [batch, pos, d_vocab].

    Attributes:
        hf_model: Hugging Face's model, the very one that was given.
        processor: Hugging Face's, or None.
        family: The peculiarities of its family.
        language: The language model's hook points: `model.language.blocks[3].attn.hook_z`.
        vision: The vision tower's.
        projector: From the tower to the language model.
        image_rows: How a packed tower's tensors are cut into images.
    """

    def __init__(self, hf_model: PreTrainedModel, processor: Any = None, *, no_processor: str = ""):
        super().__init__()
        parts = model_parts(hf_model)
        self._in_use = InUse()
        self._reader: VLMReader | None = None
        self._no_processor = no_processor or "from_hf(model, processor) takes one"
        self._parts = (parts,)
        self.processor = processor
        self.family: Family = family_of(hf_model.config)
        self.hf_model = hf_model
        self.image_rows = Rows()
        self.vision = HostedVisionStack(parts, self.image_rows)
        self.projector = Projector(parts, self.image_rows)
        self.language = LanguageStack(parts)
        # TransformerLens's utilities refuse a model of which any part is in training mode.
        for module in (self, *self.vision.modules(), *self.projector.modules(), *self.language.modules()):
            module.training = hf_model.training
        sizes_matter = processor is not None and self.reader("sizes").image_sizes_matter
        self.cfg = config_of(parts, hf_model.config, sizes_matter)
        self.vision.cfg, self.projector.cfg, self.language.cfg = self.cfg.vision, self.cfg.projector, self.cfg.language
        self.setup()

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
            hf_model: As `AutoModelForImageTextToText` loads it.
            processor: Its processor; without one, `prepare` and `generate` cannot be used.

        Raises:
            TypeError: It is not one of transformers' models.
            ValueError: It is not a vision-language model, or it cannot be hooked; the message says why.
        """
        if not isinstance(hf_model, PreTrainedModel):
            raise TypeError(
                f"expected a model of transformers, got {type(hf_model).__name__}; of a compiled, parallel or adapted "
                "model, give what is inside: model._orig_mod, model.module or model.base_model.model"
            )
        return cls(hf_model, processor)

    def setup(self) -> None:
        """Name the hook points. Hugging Face's modules keep theirs, or none."""
        self.mod_dict, self.hook_dict = {}, {}
        for stack in ("vision", "projector", "language"):
            for name, module in getattr(self, stack).named_modules(prefix=stack):
                self.mod_dict[name] = module
                if isinstance(module, CopyingHookPoint):
                    module.name = name
                    self.hook_dict[name] = module

    # What it is

    @property
    def config(self) -> Any:
        """Hugging Face's config."""
        return self.hf_model.config

    @property
    def device(self) -> torch.device:
        """The device of the embeddings, where inputs have to be."""
        return cast(Tensor, self.hf_model.get_input_embeddings().weight).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return self.hf_model.dtype

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

    @property
    def in_use(self) -> InUse:
        """The lock that gives the model to one thread at a time."""
        return self._in_use

    @property
    def layers_by_stack(self) -> Mapping[str | None, int]:
        """Layers of each stack; the projector has none."""
        return {"vision": len(self.vision.blocks), "projector": 0, "language": len(self.language.blocks)}

    def stack(self, name: str) -> HostedVisionStack | Projector | LanguageStack:
        """Return a stack. Raises KeyError if no stack has that name."""
        if name not in self.cfg.stacks:
            raise KeyError(one_of("stack", name, self.cfg.stacks))
        return getattr(self, name)

    def activations(self, stack: str) -> tuple[str, ...]:
        """Return the activations of a stack that can be patched, in the order of the forward pass.

        What a head writes is a fixed linear map of its z, so it has no `hook_result`; keys and values of
        cross-attention are the image's, which are not positions of the stack.
        """
        own = self.stack(stack).cfg.name
        leaves = dict.fromkeys(HookName.parse(name).leaf for name in self.hook_dict if name.startswith(f"{own}."))
        kept_out = ("cross_attn.hook_k", "cross_attn.hook_v", "cross_attn.hook_rot_k", "ln_final.hook_out")
        return tuple(leaf for leaf in leaves if leaf not in kept_out and not leaf.endswith("hook_result"))

    def sublayers(self, stack: str) -> tuple[str, ...]:
        """Return the modules that write to the stream: `attn`, `cross_attn`, `mlp`, in their order."""
        if stack == "projector":
            return ()
        kinds = {self.block(stack, layer).is_cross for layer in range(self.stack(stack).cfg.n_layers)}
        return (*(name for name, cross in (("attn", False), ("cross_attn", True)) if cross in kinds), "mlp")

    def block_output(self, stack: str) -> str:
        """Return the hook point that a block's output passes, without stack and layer."""
        return "hook_resid_post"

    def preprocess(self, images: Sequence[ImageLike]) -> list[Any]:
        """Return pictures read and turned to RGB, as `prepare` takes them too."""
        return vlm_inputs.read_pictures(images, None)

    def block(self, stack: str, layer: int) -> HostedBlock:
        """Return the hook points of a block.

        Args:
            stack: `language` or `vision`.
            layer: Its number, counted from 0.
        """
        return cast(HostedBlock, getattr(self, stack).blocks[layer])

    def attention_of(self, name: str) -> HostedAttention:
        """Return the attention module that the hook point `name` belongs to."""
        parsed = HookName.parse(name)
        return self.block(parsed.stack or "", parsed.layer or 0).attention

    def explain_missing(self, name: str) -> str:
        """Return the error message for a name that is not a hook point, with TransformerLens's names in mind."""
        parsed = HookName.parse(name)
        if parsed.leaf.startswith("ln_final."):
            return f"no hook point {name!r}: the final norm is hooked after its weight, at language.ln_final.hook_out"
        if parsed.stack == "text":
            return f"no hook point {name!r}: here the stack is called language, {str(name).replace('text', 'language')}"
        if parsed.stack is None:
            guesses = [full for full in (f"language.{name}", f"vision.{name}") if full in self.hook_dict]
            if guesses:
                return f"no hook point {name!r}: names start with a stack; nearest: {', '.join(guesses)}"
        if parsed.stack == "language" and parsed.layer is not None and parsed.layer < len(self.language.blocks):
            kind, other = (
                ("cross_attn", "attn") if self.block("language", parsed.layer).is_cross else ("attn", "cross_attn")
            )
            if parsed.leaf.startswith(f"{other}."):
                own = [full for full in self.hook_dict if full.startswith(f"language.blocks.{parsed.layer}.{kind}.")]
                near = ", ".join(nearest(name, own))
                what = "cross-attention" if kind == "cross_attn" else "self-attention"
                return f"no hook point {name!r}: layer {parsed.layer} is {what}; nearest: {near}"
        return super().explain_missing(name)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in _ELSEWHERE:
                raise AttributeError(f"a HookedVLM has no {name!r}; write {_ELSEWHERE[name]}") from None
            raise

    def __repr__(self) -> str:
        language, vision = self.block("language", 0).attention, self.block("vision", 0).attention
        return "\n".join(
            [
                f"HookedVLM: {self.family.name}, {self.dtype} on {self.device}",
                f"  vision: {len(self.vision.blocks)} layers x {vision.n_heads} heads of {vision.d_head}",
                f"  language: {len(self.language.blocks)} layers x {language.n_heads} heads of {language.d_head}, "
                f"{language.n_kv_heads} of keys and values",
            ]
        )

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

        Positions of several rows of the tower, a picture's tiles, are counted one after the other.
        """
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

    def forward(self, inputs: Mapping[str, Any] | None = None, **more: Any) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the logits.

        Args:
            inputs: What a processor gives: `input_ids`, `attention_mask`, `pixel_values` and the rest.
            **more: Further arguments of Hugging Face's forward, or all of them.

        Raises:
            TypeError: `inputs` is not a mapping.
            RuntimeError: A hook is attached that did not fire, since there is no picture for instance.
        """
        arguments = _arguments(inputs, more)
        with self.watching():
            return self.hf_model(**{"use_cache": False, **arguments}).logits

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

    def generate_ids(self, inputs: Mapping[str, Any], **options: Any) -> Int[Tensor, "batch pos"]:
        """Return prompt and answer as token ids, by Hugging Face's own `generate`; hooks fire at every step.

        Args:
            inputs: As `forward`.
            **options: As `generate` of transformers takes them.
        """
        with self.watching():
            return cast(Any, self.hf_model).generate(**_arguments(inputs, {}), **options)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Attach to Hugging Face's modules what the attached hooks need, for the length of a `with` block.

        Raises:
            RuntimeError: A watched hook point did not fire in the block.
        """
        with self.in_use.held() as changes, ExitStack() as attention:
            taps = [tap for tap in self.taps() if isinstance(tap, AttentionTap) or tap.point.watched]
            watched = {name for name, point in self.hook_dict.items() if cast(CopyingHookPoint, point).watched}
            fired: set[str] = set()
            functions = {}
            for tap in taps:
                if not isinstance(tap, AttentionTap):
                    tap.attach(changes, fired)
                elif tap.watched:
                    functions[tap.attention.module] = tap.function(changes, fired)
            if watched:
                for module, note in self._row_notes():
                    changes.at_end(module.register_forward_pre_hook(note, with_kwargs=True).remove)
            if functions:
                attention.enter_context(attention_by(self.hf_model, functions))
            yield
            silent = [name for name in self.hook_dict if name in watched - fired]
            if silent:
                raise RuntimeError(
                    f"{silent[0]} has a hook that did not fire"
                    + (f", nor did {len(silent) - 1} more" if len(silent) > 1 else "")
                    + ": the forward pass did not reach it. Do the inputs have a picture?"
                )

    def taps(self) -> Iterator[AnyTap]:
        """Yield where each hook point is, in the order in which they fire."""
        yield from self.vision.taps()
        yield from self.projector.taps()
        yield from self.language.taps()

    def _row_notes(self) -> Iterator[tuple[nn.Module, Any]]:
        """Yield the modules that know how many rows there are, and who writes it down."""
        yield self._parts[0].tower, self.image_rows.note_images
        for layer in range(len(self.language.blocks)):
            attention = self.block("language", layer).attention
            if attention.parts.is_cross:
                yield attention.parts.module, attention.source_rows.note_batch

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

    @one_thread_at_a_time
    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Set whether `hook_result`, what each head writes, is computed where it is watched."""
        for module in (*self.language.modules(), *self.vision.modules()):
            if isinstance(module, HostedAttention):
                module.use_attn_result = bool(use_attn_result)


def _arguments(inputs: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of Hugging Face's forward. Raises TypeError if `inputs` is not a mapping."""
    if inputs is None:
        return dict(more)
    if not isinstance(inputs, Mapping):
        raise TypeError(
            f"expected the inputs of a processor, a mapping with input_ids and the rest, got {type(inputs).__name__}; "
            "model.prepare(image, prompt) makes them"
        )
    return {**inputs, **more}
