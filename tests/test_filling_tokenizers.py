"""The text with a mask token filled in, by models with byte-level BPE or Unigram: as `tokenizers` decodes the ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from bpe_tokenizer import write_bpe
from test_convert_unigram import write_tokenizer

import tinybert_rt as tb
from tinybert_rt.cli import main
from tools.convert import convert


def write_masked(directory: Path, kind: str) -> tuple[tb.Model, object]:
    """A RoBERTa with random weights that predicts masked tokens; its tokenizer of the `tokenizers` package."""
    import torch
    from tokenizers import Tokenizer, decoders
    from transformers import RobertaConfig, RobertaForMaskedLM

    if kind == "bpe":
        write_bpe(directory)
    else:
        write_tokenizer(directory, kind)
    reference = Tokenizer.from_file(str(directory / "tokenizer.json"))
    reference.decoder = decoders.ByteLevel() if kind == "bpe" else decoders.Metaspace()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 66}
    torch.manual_seed(1)
    RobertaForMaskedLM(RobertaConfig(**sizes, vocab_size=reference.get_vocab_size(), type_vocab_size=1)).save_pretrained(directory)
    convert(directory, directory / "model.tbrt", dtype="f32")
    return tb.load(directory / "model.tbrt", threads=1), reference


@pytest.mark.parametrize("kind", ["bpe", "xlm-roberta", "albert", "deberta"])
@pytest.mark.parametrize("template", ["a name {} the value", "a name{} the value"])
def test_the_filled_text_is_the_decoded_one(kind: str, template: str, tmp_path: Path) -> None:
    model, reference = write_masked(tmp_path, kind)
    mask = model.vocabulary()[model.mask_id]
    text = template.format(mask)
    ids = reference.encode(text).ids  # type: ignore[attr-defined]
    (found,) = model.fill_mask(text, top=len(model.vocabulary()))
    special = {model.mask_id, *reference.encode("").ids}  # type: ignore[attr-defined]
    for each in found:
        filled = [each.id if index == model.mask_id else index for index in ids]
        decoded = reference.decode(filled)  # type: ignore[attr-defined]
        if each.id not in special and "\ufffd" not in each.token and each.token.strip("\u2581 ") and not each.token.startswith(("<", "[")):
            assert each.text == decoded, each
    begin = model.fill_mask(f"{mask} name", top=len(model.vocabulary()))[0]
    assert not any(each.text.startswith(" ") for each in begin if each.token.strip("\u2581 "))


def test_the_command_prints_a_line_a_piece(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte-level BPE has pieces that are line breaks."""
    model, _ = write_masked(tmp_path, "bpe")
    assert any("\n" in piece for piece in model.vocabulary())
    top = len(model.vocabulary())
    assert main(["fill-mask", "a <mask>\nb", "--model", str(tmp_path / "model.tbrt"), "--top", str(top)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == top
