"""Folders of tiny encoders: the weights in fixtures/*.npz, with a configuration and a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from helpers.text_encoders import random_weights
from safetensors.numpy import save_file

from vdm_jax.text.encoders import ENCODERS

WORD_PIECES = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
WORD_PIECES += ['a', 'nine', 'six', 'mov', '##ing', 'left', 'right', 'and']
SENTENCE_PIECES = ['<pad>', '</s>', '<unk>', '▁a', '▁nine', '▁six', '▁mov', 'ing', '▁left', '▁right', '▁and']
CLIP_WORDS = ('a', 'nine', 'six', 'left')


def below(table: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  return {name.removeprefix(prefix): value for name, value in table.items() if name.startswith(prefix)}


def load(name: str) -> dict[str, np.ndarray]:
  with np.load(Path(__file__).parent / 'fixtures' / name) as archive:
    return dict(archive)


def sentence_pieces() -> tokenizers.Tokenizer:
  """A tokenizer like T5's: `▁` before every word, `</s>` after the caption."""
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.Unigram([(piece, -float(i > 2)) for i, piece in enumerate(SENTENCE_PIECES)], unk_id=2)
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single='$A </s>', special_tokens=[('</s>', 1)])
  return tokenizer


def byte_pairs(start: int, end: int) -> tokenizers.Tokenizer:
  """A tokenizer like CLIP's: `</w>` after every word, a token before and one after the caption."""
  merges = []
  for word in CLIP_WORDS:
    *letters, last = word
    parts = [*letters, f'{last}</w>']
    merges += [(''.join(parts[:i]), parts[i]) for i in range(1, len(parts))]
  pieces = {part for pair in merges for part in (*pair, ''.join(pair))} | {'a</w>', '<unk>'}
  numbers = (number for number in range(40) if number not in (start, end))
  vocabulary = dict(zip(sorted(pieces), numbers, strict=False))
  vocabulary |= {'<|startoftext|>': start, '<|endoftext|>': end}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.BPE(vocab=vocabulary, merges=merges, unk_token='<unk>', end_of_word_suffix='</w>')
  )
  tokenizer.normalizer = tokenizers.normalizers.Lowercase()
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='<|startoftext|> $A <|endoftext|>',
    special_tokens=[('<|startoftext|>', start), ('<|endoftext|>', end)],
  )
  return tokenizer


@pytest.fixture(scope='session')
def golden() -> dict[str, np.ndarray]:
  return load('bert.npz')


@pytest.fixture(scope='session')
def golden_weights(golden) -> dict[str, np.ndarray]:
  return below(golden, 'weights/')


@pytest.fixture(scope='session')
def golden_t5() -> dict[str, np.ndarray]:
  return load('t5.npz')


@pytest.fixture(scope='session')
def golden_clip() -> dict[str, np.ndarray]:
  return load('clip.npz')


@pytest.fixture
def write_bert(tmp_path, golden, golden_weights):
  """Returns `write(weights=None, **config)`, which writes a folder and returns its path."""

  def write(weights=None, **config) -> str:
    folder = tmp_path / 'bert'
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(json.loads(str(golden['config'])) | config))
    (folder / 'vocab.txt').write_text('\n'.join(WORD_PIECES) + '\n')
    save_file(golden_weights if weights is None else weights, folder / 'model.safetensors')
    return str(folder)

  return write


@pytest.fixture
def small_bert_large(write_bert) -> str:
  """The folder of a BERT with one layer and the width of BERT-large."""
  small = {'num_hidden_layers': 1, 'intermediate_size': 8, 'num_attention_heads': 16, 'hidden_size': 1024}
  return write_bert(random_weights(write_bert(**small), ENCODERS['bert-large']), **small)


@pytest.fixture
def write_t5(tmp_path, golden_t5):
  """Returns `write(kind='relu', weights=None, **config)`, which writes a folder and returns its path."""

  def write(kind='relu', weights=None, **config) -> str:
    folder = tmp_path / 't5'
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(json.loads(str(golden_t5[f'{kind}/config'])) | config))
    sentence_pieces().save(str(folder / 'tokenizer.json'))
    save_file(below(golden_t5, f'{kind}/weights/') if weights is None else weights, folder / 'model.safetensors')
    return str(folder)

  return write


@pytest.fixture
def write_umt5(tmp_path):
  """Returns `write(weights=None, **config)`, which writes a folder and returns its path."""

  def write(weights=None, **config) -> str:
    folder, golden = tmp_path / 'umt5', load('umt5.npz')
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(json.loads(str(golden['config'])) | config))
    sentence_pieces().save(str(folder / 'tokenizer.json'))
    save_file(below(golden, 'weights/') if weights is None else weights, folder / 'model.safetensors')
    return str(folder)

  return write


@pytest.fixture
def write_clip(tmp_path, golden_clip):
  """Returns `write(kind='quick_gelu', weights=None, **config)`, which writes a folder and returns its path."""

  def write(kind='quick_gelu', weights=None, **config) -> str:
    folder = tmp_path / 'clip'
    folder.mkdir(exist_ok=True)
    values = json.loads(str(golden_clip[f'{kind}/config']))
    (folder / 'config.json').write_text(json.dumps(values | config))
    end = 39 if values['eos_token_id'] == 2 else values['eos_token_id']
    byte_pairs(values['bos_token_id'], end).save(str(folder / 'tokenizer.json'))
    save_file(below(golden_clip, f'{kind}/weights/') if weights is None else weights, folder / 'model.safetensors')
    return str(folder)

  return write
