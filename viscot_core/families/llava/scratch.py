"""A model from nothing: a byte-level tokenizer trained on the data's own words, and random weights.

transformers' own classes throughout: CLIP vision tower, two-layer GELU projector, Llama.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from viscot_core.conversation import IMAGE
from viscot_core.families.llava.template import EOS
from viscot_core.families.training import ScratchSizes


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, max_positions: int) -> Any:
    """Byte-level BPE of at most ``vocab_size`` ids; a digit is one token, so are ``[0.`` and ``, 0.``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" \[0\.|, 0\.|\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", EOS, IMAGE]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        # All 256 bytes: no text is unknown, whatever the training data held.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token=EOS,
        pad_token="<pad>",
        extra_special_tokens=[IMAGE],
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )


def scratch_config(shape: ScratchSizes, tokenizer: Any, *, feature_layer: int) -> Any:
    """The ``LlavaConfig`` of ``shape`` for ``tokenizer``'s vocabulary."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=shape.vision_mlp,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.image_side,
        patch_size=shape.patch,
        projection_dim=shape.vision_width,
    )
    text = LlamaConfig(
        hidden_size=shape.llm_width,
        intermediate_size=shape.llm_mlp,
        num_hidden_layers=shape.llm_layers,
        num_attention_heads=shape.llm_heads,
        num_key_value_heads=shape.llm_kv_heads or shape.llm_heads,
        max_position_embeddings=shape.max_positions,
        vocab_size=len(tokenizer),
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=shape.tie_embeddings,
    )


def build_model(shape: ScratchSizes, tokenizer: Any, *, feature_layer: int, attention: str, seed: int) -> Any:
    """A random ``LlavaForConditionalGeneration`` of ``shape`` for ``tokenizer``'s vocabulary, float32."""
    import torch
    from transformers import LlavaForConditionalGeneration

    config = scratch_config(shape, tokenizer, feature_layer=feature_layer)
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
