"""The contract of a frozen text encoder: what its file provides.

An encoder is one file in this folder and one entry in the table `ENCODERS` of `encoders/__init__.py`. The file defines
an `Architecture` (module, configuration, weights by name, tokenizer), one `Encoder` for folders of any size, and one
per published model whose sizes are checked. The text functions, the embedding cache, the doctor and `python -m
vdm_jax.text embed` need nothing else.
`docs/extending/text_encoder.md` builds one step by step.

Weights, configuration and tokenizer come from a folder in Hugging Face's format. Reading one needs no PyTorch, and
nothing in it is ever executed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TOKENIZER = 'tokenizer.json'
LAYERS = 'layers/'


class Tensor(NamedTuple):
  """A parameter of the module, and the tensors of the weight files that hold it.

  A parameter below `layers/` stacks one tensor per layer on a leading axis, as `nn.scan` does. A matrix whose path ends
  in `/kernel` is transposed: weight files store linear maps as [out in], Flax as [in out].
  """

  parameter: str  # path in the module, such as 'layers/query/kernel'
  names: Sequence[str]  # tensors in the weight files: one, or one per layer
  shape: tuple[int, ...]  # of each tensor in the weight files
  axes: tuple[str | None, ...]  # logical axis of each dimension of `shape`, see `vdm_jax.partitioning.RULES`

  @property
  def stacked(self) -> bool:
    """Whether the parameter has a leading axis of layers."""
    return self.parameter.startswith(LAYERS)

  @property
  def transposed(self) -> bool:
    """Whether the parameter is the transpose of the tensors."""
    return len(self.shape) == 2 and self.parameter.endswith('/kernel')

  @property
  def parameter_axes(self) -> tuple[str | None, ...]:
    """The logical axes of the parameter."""
    axes = self.axes[::-1] if self.transposed else self.axes
    return ('layers', *axes) if self.stacked else axes


def newer_field(default: Any) -> Any:
  """Return a field of a configuration that fingerprints leave out at its default, so that earlier caches stay valid."""
  return dataclasses.field(default=default, metadata={'newer': True})


def read_fast_tokenizer(path: str) -> Any:
  """Return the tokenizer that the folder's `tokenizer.json` describes."""
  import transformers  # takes seconds

  return transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(path) / TOKENIZER))


class Architecture(NamedTuple):
  """What all published models of one architecture share.

  `network(config, dtype)` returns a Flax module that maps token ids int32 [b l] and a mask bool [b l], True at least
  once per row, to embeddings float32 [b l c], zero where the mask is False. `dtype` is the type of its matrix products.
  An embedding must not depend on the padding.
  """

  model_type: str  # `model_type` in config.json
  title: str  # the architecture's name in error messages
  config: type  # frozen dataclass; its fields are the keys of config.json that the module needs
  width_field: str  # the field that holds the embedding width, c
  network: Callable[[Any, Any], Any]
  tensors: Callable[[Any], list[Tensor]]  # the parameters of the module of a configuration
  empty_caption: tuple[str, ...]  # tokens of the empty caption; the last one ends every caption
  length_field: str | None = None  # the field that holds the maximum length in tokens; None: unlimited
  required: Mapping[str, Any] = {}  # further keys of config.json and the only supported value of each
  # keys of config.json that hold the encoder's part, where the file has several networks; a later one takes precedence
  config_sections: tuple[str, ...] = ()
  canonical_name: Callable[[str], str] = str  # maps every spelling of a tensor's name to the one in `tensors`
  tokenizer_files: tuple[str, ...] = (TOKENIZER,)  # alternatives, 'a + b' if both are needed
  tokenizer_model: str | None = None  # the type of the model in tokenizer.json; None: not checked
  read_tokenizer: Callable[[str], Any] = read_fast_tokenizer
  download: str = 'Download them from {repository} on the Hugging Face hub into one folder'


class Encoder(NamedTuple):
  """A published model of an architecture, or any model of it."""

  name: str  # the value of data.text
  architecture: Architecture
  repository: str  # on the Hugging Face hub: of the model, or of an example
  # fields of the configuration that identify the model, the embedding width among them; {}: any, as config.json says
  sizes: Mapping[str, int] = {}

  @property
  def width(self) -> int | None:
    """The embedding width, c; None if only the folder has it."""
    return self.sizes.get(self.architecture.width_field)

  @property
  def model(self) -> str:
    """What to look for, for error messages."""
    model = self.repository.split('/')[-1]
    return model if self.sizes else f'a {self.architecture.title}, such as {model}'


def by_name(*encoders: Encoder) -> dict[str, Encoder]:
  """Return a table of encoders by their names."""
  return {encoder.name: encoder for encoder in encoders}
