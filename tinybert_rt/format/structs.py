"""C structs of an opened model: addresses into the mapped file and the numbers that the kernels need."""

from __future__ import annotations

from tinybert_rt.format.layout import MAX_LAYERS
from tinybert_rt.kernels.structs import PointerTo, Struct

# What an ABI function says of a failure: a detail number, and the byte offset or item it is about (-1: none).
ErrorInfo = Struct("kernel_error_info", [("detail", "i64"), ("position", "i64"), ("name_offset", "i64"), ("name_size", "i64")])

# One entry of the safetensors header: the name's offset in the file, the dtype code and the byte range in the file.
TensorEntry = Struct(
    "kernel_tensor_entry",
    [
        ("name_offset", "i64"),
        ("name_size", "i64"),
        ("dtype", "i64"),
        ("rank", "i64"),
        ("shape0", "i64"),
        ("shape1", "i64"),
        ("shape2", "i64"),
        ("shape3", "i64"),
        ("begin", "i64"),
        ("end", "i64"),
    ],
)

# weight: int8 [outputs/16][inputs/4][16][4] or float32 [outputs/16][inputs][16] and scale 0; scale, bias float32 [outputs],
# column_sum int32 [outputs] (sum of a column's int8 weights); outputs is padded to a multiple of 64.
Linear = Struct(
    "kernel_linear",
    [("weight", "ptr"), ("scale", "ptr"), ("bias", "ptr"), ("column_sum", "ptr"), ("inputs", "i64"), ("outputs", "i64")],
)

# weight, bias: float32 [width], width padded to a multiple of 64 with zeros.
Norm = Struct("kernel_norm", [("weight", "ptr"), ("bias", "ptr")])

# values: int8 [rows][width] with scale float32 [rows], or float32 [rows][width] and scale 0.
Table = Struct("kernel_table", [("values", "ptr"), ("scale", "ptr"), ("rows", "i64")])

Layer = Struct(
    "kernel_layer",
    [
        ("qkv", Linear),
        # Of relative positions, for heads whose queries and keys also meet these: inputs are a head's elements, outputs for each
        # head 2 · relative_span positions in the order of `layout`; no bias. Without: weight 0.
        ("position_key", Linear),
        ("position_query", Linear),
        ("attention_output", Linear),
        ("attention_norm", Norm),
        ("ffn_in", Linear),
        ("ffn_out", Linear),
        ("ffn_norm", Norm),
    ],
)

# trie: uint32 [nodes][2], see FORMAT.md; pieces: UTF-8 bytes of all pieces, piece_offsets: uint32 [vocab_size + 1].
Tokenizer = Struct(
    "kernel_tokenizer",
    [
        ("kind", "i64"),
        ("flags", "i64"),
        ("trie", "ptr"),
        ("trie_nodes", "i64"),
        ("continuation_root", "i64"),
        ("pieces", "ptr"),
        ("piece_offsets", "ptr"),
        ("vocab_size", "i64"),
        ("max_word_chars", "i64"),
        ("unk_id", "i64"),
        ("cls_id", "i64"),
        ("sep_id", "i64"),
        ("pad_id", "i64"),
        ("mask_id", "i64"),
        ("added", "ptr"),
        ("added_count", "i64"),
        # 256 bits: the first bytes of added tokens.
        ("added_first0", "i64"),
        ("added_first1", "i64"),
        ("added_first2", "i64"),
        ("added_first3", "i64"),
        ("added_options", "ptr"),  # uint8 [added_count], layout.STRIP_LEFT | STRIP_RIGHT of each; or 0
        # Byte-level BPE: int32 [256], the token of each byte; the rows of merges whose left token is t are merge_starts[t] to
        # merge_starts[t + 1]; a row of merges is uint32 [3]: right token, rank, token that the two become.
        ("bytes", "ptr"),
        ("merge_starts", "ptr"),  # uint32 [vocab_size + 1]
        ("merges", "ptr"),
        # Unigram: float64 [vocab_size], and the piece with the lowest of them. The rules of rewriting: a trie as above whose ids are
        # rules, their replacements one behind the other with uint32 [rules + 1] offsets, and the nodes where the keys of the two stages
        # begin, or -1.
        ("scores", "ptr"),
        ("lowest_score", "i64"),
        ("unigram_flags", "i64"),
        ("rewrite_trie", "ptr"),
        ("rewrite_nodes", "i64"),
        ("rewrite_texts", "ptr"),
        ("rewrite_offsets", "ptr"),
        ("chars_root", "i64"),
        ("clusters_root", "i64"),
        # What callers need for their buffers.
        ("tokens_per_byte", "i64"),  # a text of n bytes has at most n times as many tokens, without special tokens
        ("pair_special", "i64"),  # special tokens around a pair; a single text has 2
    ],
)

Model = Struct(
    "kernel_model",
    [
        ("architecture", "i64"),
        ("num_layers", "i64"),
        ("hidden_size", "i64"),
        ("hidden_width", "i64"),  # hidden_size padded to a multiple of 64: the elements of a row in memory
        ("num_heads", "i64"),
        ("head_size", "i64"),
        ("intermediate_size", "i64"),
        ("intermediate_width", "i64"),
        ("vocab_size", "i64"),
        ("max_positions", "i64"),
        ("type_vocab_size", "i64"),
        ("activation", "i64"),
        ("weight_dtype", "i64"),
        ("pooling", "i64"),
        ("normalize", "i64"),
        ("max_tokens", "i64"),
        ("layer_norm_eps", "f32"),
        ("embedding_size", "i64"),
        ("embedding_width", "i64"),  # embedding_size padded to a multiple of 64
        ("projected", "i64"),  # 1: embedding_project turns embeddings into hidden states
        ("word", Table),
        ("position", Table),
        ("type", Table),
        ("embedding_norm", Norm),
        ("embedding_project", Linear),
        ("tokenizer", Tokenizer),
        ("relative_span", "i64"),  # 0: attention knows no relative positions
        ("relative_width", "i64"),  # columns of one head in position_key and position_query
        ("relative_near", "i64"),  # distances below this, at most relative_span, are their own bucket
        ("buckets", "ptr"),  # int32 [max_positions]: the bucket of each distance
        ("score_parts", "i64"),  # terms of an attention score: content to content, and those with positions
        ("conv_kernel", "i64"),  # 0: there is no convolution beside the first layer
        ("conv_activation", "i64"),
        ("convolution", Linear),
        ("convolution_norm", Norm),
        ("head", "i64"),
        ("problem", "i64"),
        ("labels", "i64"),  # how many
        ("head_activation", "i64"),
        ("head_dense", Linear),
        ("head_output", Linear),
        ("label_texts", "ptr"),  # UTF-8 bytes of all labels
        ("label_offsets", "ptr"),  # uint32 [labels + 1]
        # Masked-token prediction: a linear layer from hidden states to embeddings, and the table of the pieces' scores.
        ("transform_activation", "i64"),
        ("transform", Linear),
        ("transform_norm", Norm),
        ("decoder", Table),
        ("decoder_bias", "ptr"),  # float32 [vocab_size]
        ("float_linears", "ptr"),  # uint8 [MAX_LAYERS]: bits of layout.FLOAT_LINEARS of each stored layer; 0: there are none
        ("layers", PointerTo(Layer)),
    ],
)

MODEL_BYTES = Model.size + MAX_LAYERS * Layer.size
"""Bytes that `model_open` needs for a Model and its layers behind it."""
