"""Byte-level BPE tokenizers that cannot be converted: each is refused with the name of what is not understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bpe_tokenizer import SPECIAL, add_token, write_bpe, write_in_parts

from tinybert_rt.format import layout
from tools.hf import ConversionError
from tools.hf_bpe import byte_characters
from tools.hf_tokenizer import read_tokenizer

pytest.importorskip("tokenizers")
Change = Callable[[Any], object]


def at(*path: Any, value: Any) -> Change:
    """A change of tokenizer.json: another value at a path of keys."""

    def change(parts: Any) -> None:
        for key in path[:-1]:
            parts = parts[key]
        parts[path[-1]] = value

    return change


def without_byte(parts: Any) -> None:
    vocabulary = parts["model"]["vocab"]
    vocabulary["\u0120the end"] = vocabulary.pop("\u0120")


def twice(parts: Any) -> None:
    parts["model"]["merges"].append(parts["model"]["merges"][0])


def overlapping(parts: Any) -> None:
    add_token("xy")(parts)
    add_token("yz", normalized=True)(parts)


def spaced(parts: Any) -> None:
    add_token(" <x>")(parts)


_TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}

REFUSED: dict[str, tuple[Change, str]] = {
    "dropout": (at("model", "dropout", value=0.1), r"model\.dropout is 0\.1"),
    "prefix of continuations": (at("model", "continuing_subword_prefix", value="##"), r"model\.continuing_subword_prefix is '##'"),
    "suffix of words": (at("model", "end_of_word_suffix", value="</w>"), r"model\.end_of_word_suffix is '</w>'"),
    "byte fallback": (at("model", "byte_fallback", value=True), r"model\.byte_fallback is True"),
    "words without merges": (at("model", "ignore_merges", value=True), r"model\.ignore_merges is True"),
    "normalizer": (at("normalizer", value={"type": "NFC"}), r"normalizer\.type is 'NFC'"),
    "other words": (at("pre_tokenizer", value={"type": "Whitespace"}), r"pre_tokenizer\.type is 'Whitespace'"),
    "several pre-tokenizers": (at("pre_tokenizer", value={"type": "Sequence", "pretokenizers": []}), r"pre_tokenizer\.type is 'Sequence'"),
    "no words": (at("pre_tokenizer", "use_regex", value=False), r"pre_tokenizer\.use_regex is False"),
    "prefix space": (at("pre_tokenizer", "add_prefix_space", value=None), r"pre_tokenizer\.add_prefix_space is None"),
    "no post-processor": (at("post_processor", value=None), "post_processor adds no special tokens"),
    "post-processor of GPT-2": (at("post_processor", value={"type": "ByteLevel"}), "post_processor adds no special tokens"),
    "other separator": (at("post_processor", "sep", value=["<pad>", 1]), "post_processor is neither RoBERTa's nor BERT's"),
    "other template": (at("post_processor", value=_TEMPLATE), "post_processor is neither RoBERTa's nor BERT's"),
    "merges are no list": (at("model", "merges", value={}), r"model\.merges is no list"),
    "no merges": (at("model", "merges", value=[]), "there are no merges"),
    "a merge of three": (at("model", "merges", 3, value=["a", "b", "c"]), r"merge 3 is \['a', 'b', 'c'\]"),
    "a merge of unknown pieces": (at("model", "merges", 3, value=["a", "\u4e2d"]), "merge 3, 'a \u4e2d', has or makes a piece that is not"),
    "a merge given twice": (twice, r"merges 0 and \d+ are equal"),
    "a byte is missing": (without_byte, "no piece for 1 of the 256 bytes, the first is 0x20"),
    "an id given twice": (at("model", "vocab", "<s>", value=1), r"model\.vocab: the id 1 of '<pad>' is out of range or given twice"),
    "whole words": (add_token("<x>", single_word=True), "added token '<x>': the option 'single_word' is not supported"),
    "overlapping tokens": (overlapping, "'xy' and 'yz' overlap and differ in 'normalized'"),
    "white space in tokens": (spaced, "a token that begins or ends with white space"),
    "other id": (at("added_tokens", 0, "id", value=4), "has the id 4; the vocabulary has '<mask>' there"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, tmp_path: Path) -> None:
    change, says = REFUSED[name]
    with pytest.raises(ConversionError, match=says):
        read_tokenizer(write_bpe(tmp_path, change))


def test_files_in_parts_that_cannot_be_read(tmp_path: Path) -> None:
    directory = write_in_parts(tmp_path, tokenizer_class="GPT2Tokenizer")
    with pytest.raises(ConversionError, match="tokenizer_class is 'GPT2Tokenizer'"):
        read_tokenizer(directory)
    write_in_parts(tmp_path, tokenizer_class="RobertaTokenizer", add_prefix_space="yes")
    with pytest.raises(ConversionError, match="add_prefix_space is 'yes'"):
        read_tokenizer(directory)
    (tmp_path / "merges.txt").write_bytes(b"\xff")
    with pytest.raises(ConversionError, match=r"merges\.txt: not readable as UTF-8"):
        read_tokenizer(directory)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ConversionError, match=r"merges\.txt: there is no such file"):
        read_tokenizer(directory)


def test_the_file_with_a_broken_merge_is_named(tmp_path: Path) -> None:
    directory = write_in_parts(tmp_path, tokenizer_class="RobertaTokenizer")
    with (directory / "merges.txt").open("a", encoding="utf-8") as file:
        file.write("no such pieces\n")
    with pytest.raises(ConversionError, match=r"merges\.txt: merge \d+ is 'no such pieces'"):
        read_tokenizer(directory)


def test_what_is_read(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(write_bpe(tmp_path, add_token("<r>", rstrip=True), model_max_length=512))
    assert tokenizer.kind == "bpe"
    assert tokenizer.special == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 4}
    assert tokenizer.added == {0: 0, 1: 0, 2: 0, 3: 0, 4: layout.STRIP_LEFT, 1000: layout.STRIP_RIGHT}
    assert tokenizer.flags == layout.DOUBLE_SEPARATOR
    assert tokenizer.model_max_tokens == 512
    assert [tokenizer.pieces[index] for index in tokenizer.byte_ids] == [bytes([byte]) for byte in range(256)]
    assert b" the" in tokenizer.pieces
    assert tokenizer.pieces[4] == b"<mask>"
    assert tokenizer.words is not None
    assert not set(tokenizer.words) & {*range(len(SPECIAL)), 1000}


def test_the_configuration_says_whether_a_space_goes_before_the_text(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(write_bpe(tmp_path, add_prefix_space=True))
    assert tokenizer.flags & layout.PREFIX_SPACE
    assert tokenizer.notes == ["tokenizer_config.json: add_prefix_space = True takes the place of tokenizer.json's False"]


def test_old_files_without_a_type_and_with_merges_as_text(tmp_path: Path) -> None:
    wanted = read_tokenizer(write_bpe(tmp_path / "new"))

    def old(parts: Any) -> None:
        del parts["model"]["type"]
        parts["model"]["merges"] = [" ".join(pair) for pair in parts["model"]["merges"]]

    assert read_tokenizer(write_bpe(tmp_path / "old", old)) == wanted


@pytest.mark.parametrize("double", [False, True])
def test_templates_of_pairs(double: bool, tmp_path: Path) -> None:
    def token(content: str, kind: int) -> Any:
        return {"SpecialToken": {"id": content, "type_id": kind}}

    single = [token("<s>", 0), {"Sequence": {"id": "A", "type_id": 0}}, token("</s>", 0)]
    second = 0 if double else 1
    pair = [*single, *([token("</s>", 0)] if double else []), {"Sequence": {"id": "B", "type_id": second}}, token("</s>", second)]
    names = {content: {"id": content, "ids": [index], "tokens": [content]} for content, index in (("<s>", 0), ("</s>", 2))}
    template = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": names}
    processor = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}
    assert read_tokenizer(write_bpe(tmp_path, at("post_processor", value=processor))).flags == (layout.DOUBLE_SEPARATOR if double else 0)


def test_characters_of_bytes_are_those_of_gpt2() -> None:
    from tokenizers import pre_tokenizers

    characters = byte_characters()
    assert sorted(characters) == sorted(pre_tokenizers.ByteLevel.alphabet())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for byte in range(128):
        assert level.pre_tokenize_str(chr(byte))[0][0] == characters[byte]
    assert level.pre_tokenize_str("\u00e9")[0][0] == characters[0xC3] + characters[0xA9]


def test_settings_are_json(tmp_path: Path) -> None:
    directory = write_bpe(tmp_path)
    (directory / "tokenizer_config.json").write_text(json.dumps([]))
    with pytest.raises(ConversionError, match=r"tokenizer_config\.json"):
        read_tokenizer(directory)
