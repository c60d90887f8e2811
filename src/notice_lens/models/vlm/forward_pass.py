"""The forward pass of a hosted model: Hugging Face's own, with hook points on its tensors for the length of a run.

1. `model_parts` says which of Hugging Face's modules are what; the stacks of hook points refer to them.
2. A run is `hf_model(**inputs)` inside of `watching`: taps are attached to the modules whose hook points are watched,
   and attention goes through a function that shows its steps where somebody looks at them.
3. When it ends, everything is taken off again. Without hooks nothing is attached, so it is Hugging Face's to the bit.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, cast, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from notice_lens.errors import one_of
from notice_lens.models.hook_names import QFORMER, HookName, nearest
from notice_lens.models.hooked_module import HookedModule
from notice_lens.models.hooks import CopyingHookPoint
from notice_lens.models.in_use import InUse, one_thread_at_a_time
from notice_lens.models.offloading import device_of
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
)
from notice_lens.models.vlm.qformer import QFormerBlock, QFormerStack
from notice_lens.models.vlm.taps import AttentionTap, Rows


class HostedForwardPass(HookedModule):
    """A Hugging Face model, its hook points, and how it runs with them.

    Args:
        hf_model: Hugging Face's model.
    """

    def __init__(self, hf_model: PreTrainedModel) -> None:
        super().__init__()
        parts = model_parts(hf_model)
        self._in_use = InUse()
        self._parts = (parts,)
        self.family: Family = family_of(hf_model.config)
        self.hf_model = hf_model
        self.image_rows = Rows()
        self.vision = HostedVisionStack(parts, self.image_rows)
        if parts.qformer is not None:
            self.qformer = QFormerStack(parts.qformer)
        self.projector = Projector(parts, self.image_rows)
        self.language = LanguageStack(parts)
        # TransformerLens's utilities refuse a model of which any part is in training mode.
        for module in (self, *(one for stack in self._own_stacks().values() for one in stack.modules())):
            module.training = hf_model.training

    def configure(self, image_sizes_matter: bool) -> None:
        """Set the config of the model and of its stacks, and name the hook points."""
        self.cfg = config_of(self._parts[0], self.hf_model.config, image_sizes_matter)
        self.vision.cfg, self.projector.cfg, self.language.cfg = self.cfg.vision, self.cfg.projector, self.cfg.language
        if self.cfg.qformer is not None:
            self.qformer.cfg = self.cfg.qformer
        self.setup()

    def _own_stacks(self) -> dict[str, nn.Module]:
        """Return the stacks of hook points by name, in their order."""
        names = ("vision", "qformer", "projector", "language")
        return {name: getattr(self, name) for name in names if name in self._modules}

    def setup(self) -> None:
        """Name the hook points. Hugging Face's modules keep theirs, or none."""
        self.mod_dict, self.hook_dict = {}, {}
        for prefix, stack in self._own_stacks().items():
            for name, module in stack.named_modules(prefix=prefix):
                self.mod_dict[name] = module
                if isinstance(module, CopyingHookPoint):
                    module.name = name
                    self.hook_dict[name] = module

    @property
    def config(self) -> Any:
        """Hugging Face's config."""
        return self.hf_model.config

    @property
    def device(self) -> torch.device:
        """The device of the embeddings, where inputs have to be."""
        return device_of(self.hf_model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the language model computes in; a Q-Former stays in float32 beside one in float16."""
        words = cast(Tensor, self.hf_model.get_input_embeddings().weight)
        return words.dtype if words.is_floating_point() else self.hf_model.dtype

    @property
    def in_use(self) -> InUse:
        """The lock that gives the model to one thread at a time."""
        return self._in_use

    @property
    def layers_by_stack(self) -> Mapping[str | None, int]:
        """Layers of each stack; the projector has none."""
        return {name: len(getattr(stack, "blocks", ())) for name, stack in self._own_stacks().items()}

    def stack(self, name: str) -> HostedVisionStack | QFormerStack | Projector | LanguageStack:
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
        blocks = [self.block(stack, layer) for layer in range(self.stack(stack).cfg.n_layers)]
        return (*(name for name in ("attn", "cross_attn") if any(name in own.attentions() for own in blocks)), "mlp")

    def block_output(self, stack: str) -> str:
        """Return the hook point that a block's output passes, without stack and layer."""
        return "hook_normalized_resid_post" if stack == QFORMER else "hook_resid_post"

    @overload
    def block(self, stack: Literal["language", "vision"], layer: int) -> HostedBlock: ...

    @overload
    def block(self, stack: str, layer: int) -> HostedBlock | QFormerBlock: ...

    def block(self, stack: str, layer: int) -> HostedBlock | QFormerBlock:
        """Return the hook points of a block.

        Args:
            stack: `language`, `vision` or `qformer`.
            layer: Its number, counted from 0.
        """
        return cast("HostedBlock | QFormerBlock", getattr(self, stack).blocks[layer])

    def attention_of(self, name: str) -> HostedAttention:
        """Return the attention module that the hook point `name` belongs to."""
        parsed = HookName.parse(name)
        own = self.block(parsed.stack or "", parsed.layer or 0).attentions()
        return own.get(parsed.leaf.partition(".")[0], next(iter(own.values())))

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
            if watched or functions:
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
        for stack in self._own_stacks().values():
            yield from cast(Any, stack).taps()

    def _row_notes(self) -> Iterator[tuple[nn.Module, Any]]:
        """Yield the modules that know how many rows there are, and who writes it down."""
        yield self._parts[0].tower, self.image_rows.note_images
        for layer in range(len(self.language.blocks)):
            block = self.block("language", layer)
            if block.flat_rows is self.language.flat_rows:
                yield self._parts[0].language[layer].module, block.flat_rows.note_batch
            attention = block.attention
            if attention.parts.is_cross:
                yield attention.parts.module, attention.source_rows.note_batch

    @one_thread_at_a_time
    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Set whether `hook_result`, what each head writes, is computed where it is watched."""
        for module in (one for stack in self._own_stacks().values() for one in stack.modules()):
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
