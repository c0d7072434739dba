"""Files of torch and Chainer are read exactly; files that request anything else are refused without executing it."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from vdm_jax.tensor_files import opcodes
from vdm_jax.tensor_files.stored_tensors import open_npz
from vdm_jax.tensor_files.torch_file import open_torch

FIXTURES = Path(__file__).parent / 'fixtures'


def rewritten(source: Path, target: Path, change) -> Path:
  """Copies a zip file, each member `name, content` as `change` makes it; None drops it."""
  with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w') as new:
    for member in old.infolist():
      changed = change(member.filename, old.read(member))
      if changed is not None:
        new.writestr(*changed)
  return target


def described(target: Path, description: bytes, numbers: bytes = b'\0' * 16) -> Path:
  """A file in torch's format, with any pickle and one storage."""
  with zipfile.ZipFile(target, 'w') as file:
    file.writestr('x/data.pkl', description)
    file.writestr('x/byteorder', 'little')
    file.writestr('x/data/0', numbers)
  return target


def test_every_kind_of_tensor_is_read_to_the_bit(golden):
  tensors = open_torch(FIXTURES / 'odd.pt')
  expected = {name.removeprefix('odd/'): value for name, value in golden.items() if name.startswith('odd/')}
  assert list(tensors) == [f'state.{name}' for name in expected]
  for name, value in expected.items():
    tensor = tensors[f'state.{name}']
    assert tensor.shape == value.shape, name
    np.testing.assert_array_equal(tensor.read().astype(np.float32), value, err_msg=name)
  kinds = {name: tensors[f'state.{name}'].kind for name in ('half', 'bfloat16', 'double', 'scalar')}
  assert kinds == {'half': np.float16, 'bfloat16': ml_dtypes.bfloat16, 'double': np.float64, 'scalar': np.int64}


def test_torchscript_gives_the_parameters_of_its_modules_in_order():
  tensors = open_torch(FIXTURES / 'c3d_ucf101.pt')
  assert [name for name in tensors if name.endswith('weight')][:3] == [
    'conv1a.weight',
    'conv2a.weight',
    'conv3a.weight',
  ]
  assert tensors['fc6.weight'].shape == (43, 5 * 16)


@pytest.mark.parametrize(
  ('old', 'new', 'reason'),
  [
    (b'little_endianq\x02\x88', b'little_endianq\x02\x89', 'was written on a big-endian machine'),
    (b'\x80\x02M\xe9\x03.', b'\x80\x02M\xea\x03.', 'is not a weight file'),
    (b'\x8a\x0al\xfc\x9c', b'\x8a\x0al\xfc\x9d', 'is not a weight file'),
  ],
)
def test_a_damaged_header_of_the_format_before_torch_1_6_is_refused(tmp_path, old, new, reason):
  content = (FIXTURES / 'pt_inception.pth').read_bytes()
  assert content.count(old) == 1
  path = tmp_path / 'a.pth'
  path.write_bytes(content.replace(old, new))
  with pytest.raises(ValueError, match=f'^{path} {reason}'):
    open_torch(path)


def test_the_length_of_an_old_storage_must_be_the_declared_one(tmp_path):
  content = bytearray((FIXTURES / 'pt_inception.pth').read_bytes())
  last = list(open_torch(FIXTURES / 'pt_inception.pth').values())[-1]
  assert last.shape == (7,)  # its storage need not be the last of the file
  at = content.index((7).to_bytes(8, 'little') + last.read().tobytes())
  content[at : at + 8] = (2**62).to_bytes(8, 'little')
  path = tmp_path / 'a.pth'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'^{path} has no storage .* of 28 bytes'):
    open_torch(path)


class Canary:
  """Writes a file when an unpickler builds it."""

  def __init__(self, call, *arguments):
    self.call, self.arguments = call, arguments

  def __reduce__(self):
    return self.call, self.arguments


def payloads(canary: str) -> dict[str, bytes]:
  touch = f'touch {canary}'
  found = {}
  for protocol in (0, 1, 2, 3, 4, 5):
    for call, arguments in ((os.system, (touch,)), (eval, (f'open({canary!r}, "w")',)), (open, (canary, 'w'))):
      made = Canary(call, *arguments)
      for place, tree in (('alone', made), ('in a state', OrderedDict(weight=made)), ('in a list', [1, made])):
        found[f'{call.__name__} {place}, protocol {protocol}'] = pickle.dumps(tree, protocol)
  found['global by text'] = f'cos\nsystem\n(S{touch!r}\ntR.'.encode()
  found['inst'] = f'(S{touch!r}\nios\nsystem\n.'.encode()
  found['build calls __setstate__'] = b'\x80\x02cbuiltins\nexec\n)\x81}b.'
  found['torch.hub'] = b'\x80\x02ctorch.hub\nload\nX\x01\x00\x00\x00x\x85R.'
  found['a name with a dot'] = b'\x80\x02ctorch\nserialization.loadStorage\n)R.'
  found['storage called'] = b'\x80\x02ctorch\nFloatStorage\nK\x01\x85R.'
  found['extension'] = b'\x80\x02\x82\x01.'
  return found


def test_no_payload_is_executed(tmp_path):
  canary = tmp_path / 'canary'
  for name, description in payloads(str(canary)).items():
    zipped = described(tmp_path / 'zipped.pt', description)
    old = tmp_path / 'old.pt'
    old.write_bytes(description)
    header = b''.join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}))
    older = tmp_path / 'older.pt'
    older.write_bytes(header + description + pickle.dumps([], 2))
    for path in (zipped, old, older):
      with pytest.raises(ValueError, match=rf'^{path} .*Nothing in it was executed'):
        open_torch(path)
    assert not canary.exists(), name


def test_a_refusal_names_what_the_file_requests(tmp_path):
  path = described(tmp_path / 'evil.pt', pickle.dumps(Canary(os.system, 'true'), 2))
  with pytest.raises(ValueError, match='evil.pt requests posix.system.* Nothing in it was executed'):
    open_torch(path)
  path = described(tmp_path / 'evil.pt', pickle.dumps({'a': {1, 2}}, 4))
  with pytest.raises(ValueError, match='has the instruction FRAME, which torch does not write'):
    open_torch(path)


def tensor_of(shape, strides, *, length=4, key='0', kind='FloatStorage', offset=0) -> bytes:
  """The description of a dictionary with one tensor, instruction by instruction."""

  def number(n: int) -> bytes:
    raw = n.to_bytes(n.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(raw)]) + raw

  def text(s: str) -> bytes:
    return b'X' + struct.pack('<I', len(s)) + s.encode()

  def several(numbers) -> bytes:
    return b'(' + b''.join(map(number, numbers)) + b't'

  storage = b'(' + text('storage') + f'ctorch\n{kind}\n'.encode() + text(key) + text('cpu') + number(length) + b'tQ'
  rebuild = b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + number(offset) + several(shape) + several(strides)
  return b'\x80\x02}' + text('w') + rebuild + b'\x89}tRs.'


def test_the_description_above_is_a_tensor(tmp_path):
  numbers = np.arange(4, dtype=np.float32)
  (tensor,) = open_torch(described(tmp_path / 'a.pt', tensor_of((2, 2), (1, 2)), numbers.tobytes())).values()
  np.testing.assert_array_equal(tensor.read(), numbers.reshape(2, 2).T)


@pytest.mark.parametrize(
  ('description', 'reason'),
  [
    (tensor_of((2**62, 2), (1, 1)), 'has a tensor w of shape'),
    (tensor_of((1 << 40,), (0,)), 'has a tensor w of shape'),
    (tensor_of((2, 2), (2**40, 1)), 'has a tensor w of shape'),
    (tensor_of((4,), (1,), offset=1), 'has a tensor w of shape'),
    (tensor_of((4,), (1,), offset=-1), 'not a valid (tensor|storage)'),
    (tensor_of((-1,), (1,)), 'not a valid (tensor|storage)'),
    (tensor_of((2, 2), (1,)), 'is damaged'),
    (tensor_of((4,), (1,), length=2**63), 'has no storage .* of 36893488147419103232 bytes'),
    (tensor_of((4,), (1,), length=-4), 'not a valid (tensor|storage)'),
    (tensor_of((4,), (1,), key='1'), 'has no storage .* of 16 bytes'),
    (tensor_of((4,), (1,), key='../../etc/passwd'), 'has no storage .* of 16 bytes'),
    (tensor_of((4,), (1,), kind='ComplexDoubleStorage'), 'torch.ComplexDoubleStorage'),
    (tensor_of((4,), (1,))[:-2], 'is damaged'),
    (tensor_of((4,), (1,))[:-1] + b'X\x01\x00\x00\x00wNs.', "has two values for 'w'"),
    (b'\x80\x02' + b']' * 250_000 + b'.', 'has more than 200000 instructions'),
    (b'\x80\x02]' + b'\x85' * 30_000 + b'.', 'has no tensors'),
    (b'\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.', 'has no tensors'),  # contains itself
    (b'\x80\x02' + b']' * 60 + b'a' * 59 + b'.', 'is nested more than 40 deep'),
    (b'\x80\x02X\xff\xff\xff\xff.', 'is damaged .expected 4294967295 bytes'),
    (b'\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.', 'is damaged'),
    (b'\x80\x02t.', 'is damaged'),
    (b'\x80\x02h\x07.', 'is damaged'),
    (b'', 'is damaged'),
    (b'\x80\x02})' + b'\x85' * 150_000 + b'Ns.', 'is damaged .a key is a tuple'),
    (b'\x80\x02)' + b'\x85' * 150_000 + b'NNNN\x85Q.', 'is damaged'),
    (b'\x80\x02()' + b'\x85' * 150_000 + b'NNNNtQ.', 'is damaged'),
  ],
)
def test_a_hostile_description_is_refused_before_anything_is_made(tmp_path, description, reason):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  path = described(tmp_path / 'a.pt', description)
  with pytest.raises(ValueError, match=rf'^{path} .*({reason})'):
    open_torch(path)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    (lambda name, content: None if name.endswith('data.pkl') else (name, content), 'exactly one data.pkl'),
    (lambda name, content: None if name.endswith('data/0') else (name, content), "has no storage '0'"),
    (lambda name, content: (name, content[:-4] if name.endswith('data/0') else content), "has no storage '0'"),
    (lambda name, content: (name, b'big' if name.endswith('byteorder') else content), 'big-endian'),
    (lambda name, content: (f'../{name}', content), 'outside the archive'),
    (lambda name, content: (f'/{name}', content), 'outside the archive'),
    (lambda name, content: (name.replace('data/0', 'data\\0'), content), 'outside the archive'),
  ],
)
def test_a_changed_archive_is_refused(tmp_path, change, reason):
  path = rewritten(FIXTURES / 'odd.pt', tmp_path / 'a.pt', change)
  with pytest.raises(ValueError, match=f'^{path} .*{reason}'):
    open_torch(path)


def test_two_members_of_one_name_are_refused(tmp_path):
  path = described(tmp_path / 'a.pt', tensor_of((4,), (1,)))
  with zipfile.ZipFile(path, 'a') as file, pytest.warns(UserWarning, match='Duplicate name'):
    file.writestr('x/data/0', b'\1' * 16)
  with pytest.raises(ValueError, match="has two members 'x/data/0'"):
    open_torch(path)


def test_numbers_that_fail_their_checksum_are_refused(tmp_path):
  path = tmp_path / 'a.pt'
  content = (FIXTURES / 'odd.pt').read_bytes()
  values = np.arange(24, dtype='<f8').tobytes()
  at = content.index(values)
  path.write_bytes(content[:at] + b'\xff' * 8 + content[at + 8 :])
  with pytest.raises(ValueError, match='is damaged .*Bad CRC-32'):
    open_torch(path)['state.double'].read()


@pytest.mark.parametrize('name', ['odd.pt', 'pt_inception.pth', 'c3d_ucf101.pt'])
def test_half_a_download_is_refused(tmp_path, name):
  content = (FIXTURES / name).read_bytes()
  for kept in (0, 1, 30, len(content) // 2, len(content) - 1):
    path = tmp_path / 'a.pt'
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match=f'^{path} .*download it again'):
      open_torch(path)


def test_random_damage_is_refused_or_read_but_never_anything_else(tmp_path):
  """Every flipped bit of a description gives a refusal in words, or tensors that lie within the file."""
  content = bytearray(zipfile.ZipFile(FIXTURES / 'odd.pt').read('odd/data.pkl'))
  rng = np.random.default_rng(0)
  refused = 0
  for _ in range(600):
    damaged = bytearray(content)
    for at in rng.integers(0, len(content), rng.integers(1, 4)):
      damaged[at] ^= 1 << rng.integers(8)
    try:
      opcodes.run(io.BytesIO(bytes(damaged)))
    except ValueError:
      refused += 1
  assert 200 < refused < 600


def test_arrays_of_numpy_are_read_and_others_refused(tmp_path):
  path, array = tmp_path / 'a.npz', np.arange(6.0).reshape(2, 3)
  np.savez_compressed(path, **{'fc6/W': array, 'fortran': np.asfortranarray(array)})
  tensors = open_npz(path)
  assert {name: tensor.shape for name, tensor in tensors.items()} == {'fc6/W': (2, 3), 'fortran': (2, 3)}
  for tensor in tensors.values():
    np.testing.assert_array_equal(tensor.read(), array)
  canary = tmp_path / 'canary'
  np.savez(path, objects=np.array([Canary(open, str(canary), 'w')], dtype=object))
  with pytest.raises(ValueError, match=f'^{path}: objects.npy declares object of shape'):
    open_npz(path)
  assert not canary.exists()


@pytest.mark.parametrize('shape', [(2**62, 8), (3,), (-1, 2), (0, 2**63)])
def test_an_array_that_is_not_what_its_header_says_is_refused(tmp_path, shape):
  path, header = tmp_path / 'a.npz', io.BytesIO()
  np.lib.format.write_array_header_1_0(header, {'descr': '<f4', 'fortran_order': False, 'shape': shape})
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('w.npy', header.getvalue() + b'\0' * 8)
  with pytest.raises(ValueError, match=f'^{path}: w.npy declares float32 of shape'):
    open_npz(path)


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04', b'\x93NUMPY', b'not numbers' * 10])
def test_members_that_are_no_arrays_are_refused(tmp_path, content):
  path = tmp_path / 'a.npz'
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('w.npy', content)
  with pytest.raises(ValueError, match=f'^{path}: w.npy is not an array'):
    open_npz(path)
  path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(ValueError, match=f'^{path} is not a complete zip file'):
    open_npz(path)
