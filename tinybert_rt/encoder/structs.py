"""C structs of a running session: the request of one call, and where each buffer lies in the arena."""

from __future__ import annotations

from tinybert_rt.format.structs import Model, Tokenizer
from tinybert_rt.kernels.structs import PointerTo, Struct
from tinybert_rt.text.structs import TokenizeInfo

# Where a linear layer writes. Column block b (16 columns) of row r goes to
#   out + r·row_stride + (b / part_blocks)·part_stride + ((b % part_blocks) / group_blocks)·group_stride + (rest)·64
# and, with the residual epilogue, the value at the same offset from `residual` is added. All strides in bytes.
Target = Struct(
    "kernel_target",
    [
        ("out", "ptr"),
        ("residual", "ptr"),
        ("row_stride", "i64"),
        ("part_blocks", "i64"),
        ("part_stride", "i64"),
        ("group_blocks", "i64"),
        ("group_stride", "i64"),
    ],
)

# Buffers of one team of workers that runs a chunk of at most chunk_tokens rows (workers that take rows of their own use the inner
# buffers of their own slices):
#   x f32 [rows][hidden_width], q u8 [rows][q_width], scales f32 [rows], zeros f32 [rows],
#   heads f32 [3][head_slots][chunk rows][head_width], or for each worker a place [3][heads alive at a time][chunk rows][head_width];
#   context f32 [rows][context_width],
#   inner f32 [inner_rows][intermediate_width], inner_q u8, inner_scales, inner_zeros likewise,
#   row_starts i64 [texts + 1].
Slice = Struct(
    "kernel_slice",
    [
        ("x", "ptr"),
        ("q", "ptr"),
        ("scales", "ptr"),
        ("zeros", "ptr"),
        ("heads", "ptr"),
        ("context", "ptr"),
        ("inner", "ptr"),
        ("inner_q", "ptr"),
        ("inner_scales", "ptr"),
        ("inner_zeros", "ptr"),
        ("row_starts", "ptr"),
        ("convolved", "ptr"),  # float32 [rows][hidden_width], where the model has a convolution
        ("masked", "ptr"),  # float32 [MASKED_ROWS][padded vocab_size], of a model with such a head
        ("first_text", "i64"),
        ("last_text", "i64"),
    ],
)

STAGES = (
    "tokenize",
    "embed",
    "qkv",
    "attention",
    "quantize context",
    "attention output",
    "norm",
    "ffn in",
    "quantize inner",
    "ffn out",
    "pool",
    "wait",
)
"""What a worker does, as `mark` counts it; `bench.stages` shows the times."""

(
    TOKENIZE,
    EMBED,
    QKV,
    ATTENTION,
    QUANTIZE_CONTEXT,
    ATTENTION_OUTPUT,
    NORM,
    FFN_IN,
    QUANTIZE_INNER,
    FFN_OUT,
    POOL,
    WAIT,
) = range(len(STAGES))
NO_STAGE = -1
"""For `mark`: time that is counted nowhere."""

SEMAPHORE_BYTES = 64
"""Room for the operating system's semaphore that a worker sleeps on."""

# What belongs to one worker alone. asleep: 1 while it sleeps, or is about to, on its semaphore. trace: 0, or int64
# [1 + stages]: the clock at the last mark, and the ticks of each stage.
Worker = Struct(
    "kernel_worker",
    [
        ("tile", "ptr"),
        ("attention", "ptr"),
        ("relative", "ptr"),  # scratch of relative positions, where the model has them
        ("pooled", "ptr"),
        ("head", "ptr"),  # float32 [HEAD_ROWS][hidden_width] and [HEAD_ROWS][padded labels], or [MASKED_ROWS][embedding_width]
        ("text", "ptr"),
        ("semaphore", "ptr"),
        ("trace", "ptr"),
        ("asleep", "i64"),
        ("target", Target),
        ("info", TokenizeInfo),
    ],
)

# One call: n_texts texts, as UTF-8 bytes with offsets, or as token ids with offsets; results into the caller's memory.
Request = Struct(
    "kernel_request",
    [
        ("texts", "ptr"),  # UTF-8 bytes, or 0 when ids are given
        ("text_starts", "ptr"),  # int64 [n_texts·(1 + pairs)]: where each text begins, in bytes from `texts` on
        ("text_ends", "ptr"),  # int64 [n_texts·(1 + pairs)]: where each text ends
        ("pairs", "i64"),  # 1: two consecutive texts form one pair
        ("n_texts", "i64"),
        ("truncation", "i64"),
        ("max_tokens", "i64"),
        ("ids", "ptr"),  # int32 [n_ids], or 0
        ("n_ids", "i64"),
        ("types", "ptr"),  # u8 [total tokens], or 0 for all zero
        ("id_offsets", "ptr"),  # int64 [n_texts + 1], positions in ids
        ("out", "ptr"),  # float32 [n_texts][dim], or 0
        ("dim", "i64"),
        ("hidden", "ptr"),  # float32 [total tokens][hidden_size], or 0
        ("scores", "ptr"),  # float32 [n_texts][labels], or of heads of tokens [total tokens][labels], or 0
        ("probabilities", "i64"),  # 1: probabilities take the place of logits in scores
        # Of each mask token, one behind the other over all texts: the vocabulary's logits, float32 [rows][vocab_size], or 0, and
        # (top > 0) the pieces with the largest probabilities, int32 [rows][top] and float32 [rows][top].
        ("masked_logits", "ptr"),
        ("top", "i64"),
        ("top_ids", "ptr"),
        ("top_scores", "ptr"),
        ("masked_room", "i64"),  # rows that these have room for
        ("masked", "i64"),  # result: mask tokens of the group's texts
        ("token_counts", "ptr"),  # int32 [n_texts]: tokens before truncation, or 0
        ("truncated", "ptr"),  # u8 [n_texts], or 0
        ("done", "i64"),  # result: texts finished, from the first
        ("status", "i64"),  # result: 0 or an error code
        ("item", "i64"),  # result: the text that the error is about
        # For given ids only. Output 0 is that of the embeddings (projected, where they are), i + 1 that of layer i; layers that share
        # weights count as often as they run.
        ("layers", "ptr"),  # float32 [num_layers + 1][n_ids][hidden_size], or 0
        # A block float32 [num_layers][num_heads][tokens][tokens] a text (from, to), one behind the other without gaps: the block of
        # text i begins Σ num_layers·num_heads·tokens² elements of the texts before it, counted from the first text of the request on.
        ("attentions", "ptr"),  # or 0
    ],
)

# What stays the same from one call of kernel_tokenize to the next, and the result.
TokenizeCall = Struct(
    "kernel_tokenize_call",
    [
        ("tokenizer", PointerTo(Tokenizer)),
        ("max_tokens", "i64"),
        ("truncation", "i64"),
        ("ids", "ptr"),  # int32 [max_tokens]
        ("types", "ptr"),  # u8 [max_tokens], or 0
        ("spans", "ptr"),  # int32 [max_tokens][2], or 0
        ("scratch", "ptr"),  # WORD_SCRATCH_BYTES
        ("info", TokenizeInfo),
    ],
)

# A session: the arena's plan and the meeting point of its workers.
Session = Struct(
    "kernel_session",
    [
        ("model", PointerTo(Model)),
        ("workers", "i64"),
        ("chunk_tokens", "i64"),  # rows that a slice holds
        ("chunk_target", "i64"),  # a chunk is closed before it grows beyond this, unless it is one long text
        ("group_tokens", "i64"),  # tokens that the token buffer holds
        ("group_texts", "i64"),
        ("head_width", "i64"),
        ("head_slots", "i64"),
        ("context_width", "i64"),
        ("q_width", "i64"),
        ("inner_rows", "i64"),
        ("rows_apart", "i64"),  # rows for each worker from which on workers take rows of their own
        ("attention_tokens", "i64"),
        ("slices", PointerTo(Slice)),
        ("locals", PointerTo(Worker)),
        ("ids", "ptr"),
        ("types", "ptr"),
        ("id_offsets", "ptr"),
        ("chunks", "ptr"),  # int64 [chunks + 1]: first text of each chunk
        ("n_chunks", "i64"),
        ("next_chunk", "i64"),
        ("barrier_count", "i64"),
        ("barrier_generation", "i64"),
        ("request", PointerTo(Request)),  # of the job that the helpers work on
        ("job", "i64"),  # number of jobs given out: a helper starts when it changes
        ("closing", "i64"),
        # The operating system's int (*)(void *): give up the processor (its argument is ignored), sleep on a worker's semaphore,
        # and wake its sleeper. Without the last two, 0, helpers give up the processor instead of sleeping.
        ("yield_thread", "ptr"),
        ("sleep_thread", "ptr"),
        ("wake_thread", "ptr"),
    ],
)

SMALLEST_CHUNK = 128
"""Tokens of a chunk of short texts: enough rows to use the weights well, few enough to stay in the second-level cache."""

INNER_ROWS = 64
"""Rows of the feed-forward layer's inner activations that are alive at a time: they stay in the second-level cache beside the weights."""

HEADS_BYTES = 1 << 18
"""Queries, keys and values that are alive at a time, where workers take heads of their own, if they are not of a single group of
heads: they stay in the second-level cache."""

HEAD_ROWS = 64
"""Rows of a head's output that are alive at a time."""

MASKED_ROWS = 4
"""Mask tokens whose scores of the whole vocabulary are alive at a time."""

ROWS_APART = 16
"""From so many rows for each worker on, workers take rows instead of columns: each then reads all weights, and meets others less."""

ROWS_APART_LIGHT = 4
"""The same, where all workers together then read at most LIGHT_BYTES of the layers' weights."""

LIGHT_BYTES = 1 << 25
"""Measured with two workers, where models of 0.4 to 12.6 MB gained by it and one of 85 MB, which comes from memory, lost. With more
workers it keeps the reading within what a shared last-level cache gives."""

GROUP_TOKENS = 8192
"""Tokens of one group of texts: the step of progress and cancellation."""

GROUP_TEXTS = 1024
