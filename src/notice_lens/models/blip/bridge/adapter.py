"""TransformerLens's architecture adapter for BLIP's question answering.

    vision_encoder.encoder_layers.{layer}   the image encoder
    encoder_blocks.{layer}                  the question encoder: attn, cross_attn (to the image)
    decoder_blocks.{layer}                  the answer decoder: self_attn, cross_attn (to the question)

These are the names that TransformerLens gives to a vision tower and to the two sides of an encoder-decoder. The hook
points of a block are those of `HookedBLIP`'s.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import LinearBridge, PosEmbedBridge, UnembeddingBridge
from transformers.models.blip.modeling_blip import BlipTextVisionModelOutput

from notice_lens.models.blip.bridge.components import BLIPVisionEncoderBridge, WordEmbeddingBridge, norm, text_block


class BLIPArchitectureAdapter(ArchitectureAdapter):
    """How a `BlipForQuestionAnswering` becomes a TransformerBridge."""

    supports_generation = False
    supports_causal_loss = False
    supports_hf_output_attentions = False
    supports_compatibility_mode = False

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        # Read by TransformerLens's analyses; nothing is folded into a LayerNorm that follows an addition.
        self.supports_fold_ln = False
        self.supports_center_writing_weights = False
        self.weight_processing_conversions = {}
        self.cfg.is_multimodal = True
        self.cfg.normalization_type = "LN"
        self.cfg.positional_embedding_type = "standard"
        self.cfg.attention_dir = "bidirectional"
        self.cfg.default_padding_side = "right"
        self.cfg.final_rms = self.cfg.gated_mlp = self.cfg.attn_only = False
        self._extract_vision_dims(cfg)
        self.component_mapping = {
            "vision_encoder": BLIPVisionEncoderBridge("vision_model", self.cfg),
            **self._embeddings("text_encoder.embeddings", ""),
            "encoder_blocks": text_block("text_encoder.encoder.layer", self.cfg, "attn"),
            **self._embeddings("text_decoder.bert.embeddings", "decoder_"),
            "decoder_blocks": text_block("text_decoder.bert.encoder.layer", self.cfg, "self_attn"),
            "head": LinearBridge(name="text_decoder.cls.predictions.transform.dense"),
            "ln_final": norm("text_decoder.cls.predictions.transform.LayerNorm", self.cfg),
            "unembed": UnembeddingBridge(name="text_decoder.cls.predictions.decoder"),
        }

    def _embeddings(self, path: str, prefix: str) -> dict[str, Any]:
        return {
            f"{prefix}embed": WordEmbeddingBridge(name=f"{path}.word_embeddings"),
            f"{prefix}pos_embed": PosEmbedBridge(name=f"{path}.position_embeddings"),
            f"{prefix}embed_ln": norm(f"{path}.LayerNorm", self.cfg),
        }

    def prepare_model(self, hf_model: Any) -> None:
        """Let the model return logits: Hugging Face's forward pass computes the decoder's and keeps the loss alone."""
        hf_model.forward = MethodType(forward_with_logits, hf_model)


@dataclass
class AnswerOutput(BlipTextVisionModelOutput):
    """Hugging Face's output, and the decoder's logits, [batch, answer_pos, d_vocab]."""

    logits: Tensor | None = None


def forward_with_logits(
    hf_model: Any,
    input_ids: Tensor,
    pixel_values: Tensor,
    decoder_input_ids: Tensor | None = None,
    labels: Tensor | None = None,
    **inputs: Any,
) -> AnswerOutput:
    """Run Hugging Face's forward pass and return its output with the logits that it leaves out.

    Args:
        hf_model: A `BlipForQuestionAnswering`.
        input_ids: The questions, [batch, pos].
        pixel_values: The preprocessed images, [batch, 3, height, width].
        decoder_input_ids: `[DEC]` and what follows of the answers, [batch, answer_pos]; None for `[DEC]` alone.
        labels: As Hugging Face takes them.
        **inputs: `attention_mask` of the questions, and whatever else Hugging Face takes.
    """
    if decoder_input_ids is None and labels is None:
        decoder_input_ids = torch.full_like(input_ids[:, :1], hf_model.decoder_start_token_id)
    answers: list[Any] = []
    handle = hf_model.text_decoder.register_forward_hook(lambda module, args, output: answers.append(output))
    try:
        output = type(hf_model).forward(
            hf_model,
            input_ids=input_ids,
            pixel_values=pixel_values,
            decoder_input_ids=decoder_input_ids,
            labels=labels,
            **inputs,
        )
    finally:
        handle.remove()
    return AnswerOutput(**output, logits=answers[0].logits)
