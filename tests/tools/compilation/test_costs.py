"""Costs of compiled programs against closed forms: products, loops, slices, and collectives in TPU notation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from vdm_jax.tools.compilation.costs import costs

A, B, C = 8, 16, 32

# A loop of 4 iterations (a counter from 1 to 8 by 2) with TPU collectives; `%s` is one instruction of its body.
LOOP = """HloModule m, num_partitions=8

%%add (a: f32[], b: f32[]) -> f32[] {
  %%a = f32[] parameter(0)
  %%b = f32[] parameter(1)
  ROOT %%sum = f32[] add(%%a, %%b)
}

%%all-reduce-scatter.1 (p: f32[80]) -> f32[10] {
  %%p = f32[80]{0} parameter(0)
  %%reduced = f32[80]{0} all-reduce(%%p), replica_groups=[1,8]<=[8], to_apply=%%add
  %%zero = s32[] constant(0)
  ROOT %%part = f32[10]{0} dynamic-slice(%%reduced, %%zero), dynamic_slice_sizes={10}
}

%%body (state: (s32[], f32[80])) -> (s32[], f32[80]) {
  %%state = (s32[]{:T(128)}, f32[80]{0:T(256)S(1)}) parameter(0)
  %%i = s32[]{:T(128)} get-tuple-element(%%state), index=0
  %%x = f32[80]{0:T(256)S(1)} get-tuple-element(%%state), index=1
  %%two = s32[] constant(2)
  %%next = s32[] add(%%i, %%two)
  %s
  ROOT %%out = (s32[], f32[80]) tuple(%%next, %%x)
}

%%condition (state: (s32[], f32[80])) -> pred[] {
  %%state.1 = (s32[], f32[80]{0}) parameter(0)
  %%end = s32[] constant(8)
  %%i.1 = s32[] get-tuple-element(%%state.1), index=0
  ROOT %%more = pred[] compare(%%i.1, %%end), direction=LT
}

ENTRY %%main (given: f32[80]) -> (s32[], f32[80]) {
  %%given = f32[80]{0} parameter(0)
  %%start = s32[] constant(1)
  %%copied = s32[] copy(%%start)
  %%init = (s32[], f32[80]) tuple(%%copied, %%given)
  ROOT %%loop = (s32[], f32[80]) while(%%init), condition=%%condition, body=%%body
}
"""
PASSES, BYTES = 4, 320.0


def of(function, *shapes):
  given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return costs(jax.jit(function).lower(*given).compile().as_text(), 1)


def test_a_product_in_nested_loops_counts_once_per_iteration():
  def inner(x, y):
    return jax.lax.scan(lambda z, _: (jnp.sin(z @ y), None), x, length=3)[0]

  def outer(x, y):
    return jax.lax.scan(lambda z, _: (inner(z, y), None), x, length=5)[0]

  assert of(outer, (A, B), (B, B)).flops == 15 * 2 * A * B * B


def test_rematerialization_counts():
  def loss(x, y, wrap):
    return jnp.sum(jax.lax.scan(wrap(lambda z, _: (jnp.sin(z @ y), None)), x, length=5)[0])

  def training(wrap):
    return of(jax.value_and_grad(lambda x, y: loss(x, y, wrap), (0, 1)), (A, B), (B, B)).flops

  once = 5 * 2 * A * B * B
  assert training(lambda body: body) == 3 * once
  assert training(jax.checkpoint) == 4 * once


def test_a_convolution_counts_only_taps_that_meet_a_pixel():
  def convolve(x, kernel, stride):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=numbers)

  # 3 taps on n positions miss one at each end; at stride 2 there is padding at one end only.
  assert of(lambda x, k: convolve(x, k, 1), (2, 8, 6, 3), (3, 3, 3, 7)).flops == 2 * 2 * (24 - 2) * (18 - 2) * 3 * 7
  assert of(lambda x, k: convolve(x, k, 2), (2, 8, 6, 3), (3, 3, 3, 7)).flops == 2 * 2 * (12 - 1) * (9 - 1) * 3 * 7


def test_dilation_adds_no_taps():
  text = (
    'ENTRY %main (a: f32[2,8,3], b: f32[4,3,5]) -> f32[2,15,5] {\n'
    '  %a = f32[2,8,3]{2,1,0} parameter(0)\n  %b = f32[4,3,5]{2,1,0} parameter(1)\n'
    '  ROOT %c = f32[2,12,5]{2,1,0} convolution(%a, %b), window={size=4 lhs_dilate=2}, dim_labels=b0f_0io->b0f\n}\n'
  )
  assert costs(text, 1).flops == 2 * 2 * 3 * 5 * (12 * 4 // 2)  # every other tap meets an inserted zero


def test_elementwise_operations_read_their_operands_and_write_their_result():
  assert of(lambda x, y: jnp.sin(x) * y, (A, B), (A, B)).memory_bytes == 3 * 4 * A * B


def test_a_slice_costs_only_the_slice():
  def last(x, i):
    return jnp.sin(jax.lax.dynamic_index_in_dim(x, i[0].astype(int), 0, keepdims=False))

  assert of(last, (1000, C), (1,)).memory_bytes < 10 * 4 * C


@pytest.mark.parametrize(
  ('instruction', 'sent'),
  [
    ('%r = f32[80] all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add', 2 * BYTES * 3 / 4),
    ("%r = f32[80] all-reduce(%x), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}, to_apply=%add", BYTES),
    (
      "%r = f32[320] all-gather(%x), replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}, dimensions={0}",
      3 * BYTES,
    ),
    ('%r = f32[640] all-gather(%x), replica_groups={}, dimensions={0}', 7 * BYTES),
    ('%r = f32[640] all-gather(%x), replica_groups=[1,8]<=[8], dimensions={0}', 7 * BYTES),
    ('%r = f32[40] reduce-scatter(%x), replica_groups=[4,2]<=[8], dimensions={0}, to_apply=%add', BYTES / 2),
    ('%r = f32[80] all-to-all(%x), replica_groups=[1,8]<=[8]', BYTES * 7 / 8),
    ('%r = (f32[80], f32[80], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}', BYTES),
    ('%r = (f32[80], f32[160]) all-gather-start(%x), replica_groups=[4,2]<=[8], dimensions={0}', BYTES),
    ('%r = f32[10] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1', BYTES * 7 / 8),
  ],
)
def test_collectives_in_a_loop_send_as_ring_algorithms_do(instruction, sent):
  found = costs(LOOP % instruction, 8)
  assert found.collective_bytes == PASSES * sent
  assert found.flops == 0


def test_scratch_memory_on_the_chip_is_free():
  """x is in scratch memory: copying within it is free, copying it out costs the write."""
  within, out = (costs(LOOP % f'%r = f32[80]{layout} copy(%x)', 8) for layout in ('{0:S(1)}', '{0}'))
  assert out.memory_bytes - within.memory_bytes == PASSES * BYTES


def test_a_loop_of_unknown_length_is_an_error():
  endless = (LOOP % '%r = f32[80] all-to-all(%x)').replace('direction=LT', 'direction=NE')
  with pytest.raises(ValueError, match='iterations for the loop loop'):
    costs(endless, 8)
