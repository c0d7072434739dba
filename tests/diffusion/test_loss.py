"""The loss against its formula in numpy, and the laws of masks, keys and self-conditioning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import (
  cosine_sampler,
  denoising_loss,
  edm,
  expand_dims_like,
  input_scaled,
  predict_eps,
  predict_v,
  predict_x,
  snap,
  variance_preserving,
)

PROCESSES = {'preserving': variance_preserving(), 'scaled-1': input_scaled(1.0), 'scaled-4': input_scaled(4.0)}
PARAMETERIZATIONS = {'eps': predict_eps, 'v': predict_v, 'x': predict_x, 'edm': edm(0.5), 'snap': snap(1.0)}
every_pair = pytest.mark.parametrize(
  'process, parameterization',
  [(p, q) for p in PROCESSES.values() for q in PARAMETERIZATIONS.values()],
  ids=[f'{p}-{q}' for p in PROCESSES for q in PARAMETERIZATIONS],
)

LOGSNR = np.array([-3.0, -1.0, 0.5, 3.0], np.float32)
X = np.random.default_rng(0).uniform(-1, 1, size=(4, 2, 3, 3, 1)).astype(np.float32)
RNG = jax.random.key(0)
AXES = (1, 2, 3, 4)


ONLY_NOISE = -80.0  # a log-SNR so low that z is the noise alone


def affine(network_input, logsnr, cond, carry):
  return 0.3 * network_input + 0.1, None


def loss_of(network, x=X, cond=None, rng=RNG, process=PROCESSES['preserving'], parameterization=predict_v, **kwargs):
  if 'sample_logsnr' not in kwargs:
    kwargs = {'logsnr': LOGSNR} | kwargs
  return denoising_loss(network, x, cond, rng, process=process, parameterization=parameterization, **kwargs)


def recorded(network, **kwargs):
  """The loss, what it returns beside, and the arguments of every call of the network."""
  calls = []

  def recorder(*args):
    calls.append(args)
    return network(*args)

  return *loss_of(recorder, **kwargs), calls


def squared_errors(calls, process, parameterization):
  """The unit noise recovered from what the network saw, and the loss's summands, in float64."""
  network_input = np.asarray(calls[-1][0], np.float64)
  alpha, sigma = (np.asarray(f(LOGSNR), np.float64) for f in process)
  c = [
    np.asarray(expand_dims_like(a, X), np.float64)
    for a in parameterization(process.alpha(LOGSNR), process.sigma(LOGSNR))
  ]
  _, _, scale, target_x, target_eps, weight = c
  eps = (network_input / scale - expand_dims_like(alpha, X) * X) / expand_dims_like(sigma, X)
  return eps, weight * (0.3 * network_input + 0.1 - target_x * X - target_eps * eps) ** 2


@every_pair
def test_exact_network_has_no_loss(process, parameterization):
  def network(network_input, logsnr, cond, carry):
    alpha, sigma = process.alpha(logsnr), process.sigma(logsnr)
    c = parameterization(alpha, sigma)
    eps = (network_input / expand_dims_like(c.input, X) - expand_dims_like(alpha, X) * X) / expand_dims_like(sigma, X)
    return expand_dims_like(c.target_x, X) * X + expand_dims_like(c.target_eps, X) * eps, None

  loss, info = loss_of(network, process=process, parameterization=parameterization)
  assert loss < 1e-9
  assert np.max(info['per_example']) < 1e-9


@every_pair
def test_loss_is_its_formula(process, parameterization):
  loss, info, calls = recorded(affine, process=process, parameterization=parameterization)
  eps, errors = squared_errors(calls, process, parameterization)
  assert len(calls) == 1 and calls[0][3] is None
  assert np.all(np.abs(eps) < 4) and 0.7 < eps.std() < 1.3
  np.testing.assert_allclose(info['per_example'], errors.mean(AXES), rtol=1e-4)
  np.testing.assert_allclose(loss, errors.mean(), rtol=1e-4)
  np.testing.assert_array_equal(info['logsnr'], LOGSNR)
  np.testing.assert_array_equal(calls[0][1], LOGSNR)


def test_noise_is_unit_and_independent():
  first, other = (
    recorded(affine, x=np.zeros((8, 4, 16, 16, 2), np.float32), rng=key, logsnr=np.full(8, ONLY_NOISE))[2][0][0]
    for key in (RNG, jax.random.key(1))
  )
  eps = np.concatenate([first, other]).astype(np.float64).reshape(16, -1)
  np.testing.assert_allclose(np.cov(eps), np.eye(16), atol=0.1)
  np.testing.assert_allclose(eps.mean(1), 0, atol=0.1)


def test_noise_levels_are_not_drawn_with_the_noise():
  """The sampler's key differs from the noise's keys: otherwise noise and its level would be dependent."""
  seen = []
  keys = jax.random.split(jax.random.key(5), 4)
  loss_of(affine, rng=keys, sample_logsnr=lambda rng, n: seen.append(rng) or jnp.full(n, ONLY_NOISE))
  _, _, calls = recorded(affine, x=X * 0, rng=keys, logsnr=np.full(4, ONLY_NOISE))
  for example in calls[0][0]:
    assert not np.allclose(example, jax.random.normal(seen[0], X.shape[1:]))


def test_output_in_bfloat16_is_compared_in_float32():
  output = jnp.full(X.shape, 1 / 3, jnp.bfloat16)
  loss, _ = loss_of(lambda *_: (output, None), parameterization=predict_x)
  np.testing.assert_allclose(loss, np.mean((float(output[0, 0, 0, 0, 0]) - X.astype(np.float64)) ** 2), rtol=1e-5)
  assert loss.dtype == jnp.float32


@pytest.mark.parametrize(
  'weight, factor', [(3.0, 3.0), (jnp.float32(3.0), 3.0), (lambda logsnr: 2 + logsnr / 2, 2 + LOGSNR / 2)]
)
def test_weight_scales_each_example(weight, factor):
  plain, info = loss_of(affine, parameterization=snap(1.0))
  loss, weighted = loss_of(affine, parameterization=snap(1.0), weight=weight)
  np.testing.assert_allclose(weighted['per_example'], factor * info['per_example'], rtol=1e-5)
  np.testing.assert_allclose(loss, np.mean(factor * info['per_example']), rtol=1e-5)
  assert not np.isclose(loss, plain)


@pytest.mark.parametrize('shape', [X.shape, (4, 2, 1, 1, 1), (2, 3, 3, 1), (4, 1, 1, 1, 1)])
def test_mask_gives_the_mean_over_what_it_keeps(shape):
  """An array that broadcasts to x; factors other than one count, zeros leave the mean."""
  mask = np.random.default_rng(1).choice(np.array([0, 1, 2], np.float32), size=shape)
  mask.flat[0], mask.flat[-1] = 0, 1
  loss, info, calls = recorded(affine, weight=mask)
  _, errors = squared_errors(calls, PROCESSES['preserving'], predict_v)
  full = np.broadcast_to(mask, X.shape)
  np.testing.assert_allclose(loss, (full * errors).sum() / (full != 0).sum(), rtol=1e-4)
  count = (full != 0).sum(AXES)
  np.testing.assert_allclose(info['per_example'], (full * errors).sum(AXES) / np.maximum(count, 1), rtol=1e-4)


def test_a_mask_may_keep_one_element_of_an_example():
  mask = np.zeros(X.shape, np.float32)
  mask[:, 0, 0, 0, 0] = 1
  _, info, calls = recorded(affine, weight=mask)
  _, errors = squared_errors(calls, PROCESSES['preserving'], predict_v)
  np.testing.assert_allclose(info['per_example'], errors[:, 0, 0, 0, 0], rtol=1e-4)


def test_masked_pixels_have_no_influence():
  mask = np.zeros(X.shape, bool)
  mask[:, 0] = True
  changed = np.where(mask, X, 7.0).astype(np.float32)
  for ours, theirs in zip(*(jax.tree.leaves(loss_of(affine, x=x, weight=mask)) for x in (X, changed)), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert loss_of(affine, x=changed)[0] != loss_of(affine)[0]


def test_empty_mask_is_no_loss_instead_of_nan():
  loss, info = loss_of(affine, weight=np.zeros(X.shape, np.float32))
  assert loss == 0
  np.testing.assert_array_equal(info['per_example'], 0)


def test_batch_in_pieces_has_the_loss_and_gradient_of_the_whole():
  """With a key per example, noise and self-conditioning coins do not depend on how a batch is cut."""
  keys = jax.random.split(jax.random.key(3), 4)

  def objective(scale, piece):
    def network(network_input, logsnr, cond, carry):
      carry = 0.0 if carry is None else carry
      return scale * network_input + carry, network_input**2

    return loss_of(network, X[piece], rng=keys[piece], logsnr=LOGSNR[piece], self_condition_rate=0.5)[0]

  whole, *halves = (jax.value_and_grad(objective)(0.4, p) for p in (slice(0, 4), slice(0, 2), slice(2, 4)))
  np.testing.assert_allclose(whole, np.mean(halves, 0), rtol=1e-5)
  assert not np.isclose(halves[0][0], halves[1][0])


@pytest.mark.parametrize(
  'rng', [jax.random.split(RNG, 4), jax.random.PRNGKey(0), jax.random.split(jax.random.PRNGKey(0), 4)]
)
def test_one_key_is_a_key_per_example(rng):
  """Of either style: PRNGKey's uint32 pair is one key, not two."""
  _, _, (one,) = recorded(affine, rng=RNG)
  _, _, (other,) = recorded(affine, rng=rng)
  np.testing.assert_array_equal(one[0], other[0])


def counting(network_input, logsnr, cond, carry):
  """Reads its carry, so that a wrong one shows in the output."""
  read = 0.0 if carry is None else expand_dims_like(carry['latents'][:, 0], network_input)
  return 0.3 * network_input + read, {'latents': jnp.mean(network_input, AXES)[:, None] + jnp.ones((1, 2))}


def test_self_conditioning_hands_on_the_first_pass():
  """Both passes see the same input, log-SNR and condition, the first without a carry, the second with all of its."""
  _, _, (first, second) = recorded(counting, cond='condition', self_condition_rate=1.0)
  assert first[3] is None
  np.testing.assert_array_equal(first[0], second[0])
  np.testing.assert_array_equal(first[1], second[1])
  assert first[2] == second[2] == 'condition'
  np.testing.assert_array_equal(second[3]['latents'], counting(*first)[1]['latents'])


def test_self_conditioning_off_is_one_pass():
  _, _, calls = recorded(counting)
  assert [call[3] for call in calls] == [None]


def test_the_loss_is_that_of_the_second_pass():
  loss, _, calls = recorded(counting, self_condition_rate=1.0)
  eps, _ = squared_errors(calls, PROCESSES['preserving'], predict_v)
  alpha, sigma = (expand_dims_like(f(LOGSNR), X) for f in PROCESSES['preserving'])
  output = counting(*calls[1])[0]
  np.testing.assert_allclose(loss, np.mean((output - (alpha * eps - sigma * X)) ** 2), rtol=1e-4)


def test_each_example_keeps_its_carry_at_the_rate():
  n = 4000
  _, _, calls = recorded(
    lambda x, logsnr, cond, carry: (x, jnp.ones((n, 3))),
    x=np.zeros((n, 1, 1, 1, 1), np.float32),
    logsnr=np.zeros(n),
    self_condition_rate=0.9,
  )
  carry = np.asarray(calls[1][3])
  assert set(np.unique(carry)) == {0, 1}
  np.testing.assert_array_equal(carry, np.repeat(carry[:, :1], 3, axis=1))  # all of it or nothing
  assert abs(carry.mean() - 0.9) < 0.02


def test_coins_do_not_depend_on_the_noise():
  n = 4000
  _, _, calls = recorded(
    lambda x, logsnr, cond, carry: (x, jnp.ones((n, 1))),
    x=np.zeros((n, 1, 1, 1, 1), np.float32),
    logsnr=np.full(n, ONLY_NOISE),
    self_condition_rate=0.5,
  )
  assert abs(np.corrcoef(np.ravel(calls[1][0]), np.ravel(calls[1][3]))[0, 1]) < 0.06


def test_no_gradient_flows_through_the_first_pass():
  def objective(scale, frozen):
    def network(network_input, logsnr, cond, carry):
      first = carry is None
      factor = frozen if first else scale
      return factor * network_input + (0.0 if first else carry), factor * network_input

    return loss_of(network, self_condition_rate=1.0)[0]

  assert jax.grad(objective, 1)(0.4, 0.4) == 0
  assert jax.grad(objective, 0)(0.4, 0.4) != 0
  assert objective(0.4, 0.5) != objective(0.4, 0.4)


def test_both_passes_share_the_dropout_key():
  """The network closes over its dropout key, so the same units are dropped in both passes."""
  dropout_key = jax.random.key(9)
  drawn = []

  def network(network_input, logsnr, cond, carry):
    kept = jax.random.bernoulli(dropout_key, 0.5, network_input.shape)
    drawn.append(jnp.where(kept, network_input, 0))
    return drawn[-1], jnp.zeros((4, 1))

  loss_of(network, self_condition_rate=1.0)
  np.testing.assert_array_equal(*drawn)


def test_a_network_without_carry_may_train_with_self_conditioning():
  np.testing.assert_array_equal(loss_of(affine, self_condition_rate=0.9)[0], loss_of(affine)[0])


@pytest.mark.parametrize('rate', [-0.1, 1.5])
def test_a_rate_outside_its_range_is_refused(rate):
  with pytest.raises(ValueError, match=f'^self_condition_rate={rate} '):
    loss_of(affine, self_condition_rate=rate)


@pytest.mark.parametrize('levels', [{}, {'sample_logsnr': cosine_sampler(), 'logsnr': LOGSNR}])
def test_noise_levels_are_given_in_exactly_one_way(levels):
  with pytest.raises(ValueError, match='^sample_logsnr and logsnr: .*exactly one'):
    denoising_loss(affine, X, None, RNG, process=PROCESSES['preserving'], parameterization=predict_v, **levels)


@pytest.mark.parametrize('logsnr', [np.float32(0.0), LOGSNR[:2], LOGSNR[:, None]])
def test_one_noise_level_per_example_is_required(logsnr):
  with pytest.raises(ValueError, match='^logsnr has shape'):
    loss_of(affine, logsnr=logsnr)


def test_given_noise_levels_are_those_of_a_sampler_that_returns_them():
  """To the last bit, also with self-conditioning and with one key for the batch."""
  for rng in (RNG, jax.random.split(RNG, 4)):
    given, sampled = (
      loss_of(counting, rng=rng, self_condition_rate=0.5, **levels)
      for levels in ({'logsnr': jnp.asarray(LOGSNR)}, {'sample_logsnr': lambda rng, n: jnp.asarray(LOGSNR)})
    )
    jax.tree.map(np.testing.assert_array_equal, given, sampled)


def test_compiled_loss_is_the_same():
  def objective(x, rng):
    return loss_of(counting, x, rng=rng, sample_logsnr=cosine_sampler(), self_condition_rate=0.5, weight=2.0)

  for plain, compiled in zip(*(jax.tree.leaves(f(X, RNG)) for f in (objective, jax.jit(objective))), strict=True):
    np.testing.assert_allclose(plain, compiled, rtol=1e-4, atol=1e-6)


@every_pair
def test_equal_levels_of_all_frames_give_bitwise_the_loss_of_one_level(process, parameterization):
  def loss(logsnr):
    return jax.jit(lambda logsnr: loss_of(affine, logsnr=logsnr, process=process, parameterization=parameterization))(
      logsnr
    )

  (one, about), (own, about_own) = loss(LOGSNR), loss(np.repeat(LOGSNR[:, None], X.shape[1], 1))
  assert one == own
  np.testing.assert_array_equal(about['per_example'], about_own['per_example'])
  np.testing.assert_allclose(about_own['per_frame'].mean(1), about['per_example'], rtol=1e-5)


def test_a_frame_has_the_loss_of_its_own_level():
  """Two levels in one example: each frame's loss is that of an example at its level, with the same noise."""
  uneven = np.stack([LOGSNR, LOGSNR + 2], 1)
  found = loss_of(affine, logsnr=uneven)[1]['per_frame']
  for frame in range(2):
    even = np.repeat(uneven[:, frame : frame + 1], 2, 1)
    np.testing.assert_allclose(found[:, frame], loss_of(affine, logsnr=even)[1]['per_frame'][:, frame], rtol=1e-6)


def test_a_frame_of_weight_zero_has_no_loss_and_counts_in_the_mean():
  uneven = np.stack([LOGSNR, np.full(4, 20.0, np.float32)], 1)
  masked, about = loss_of(affine, logsnr=uneven, weight=lambda logsnr: logsnr < 20)
  _, plain = loss_of(affine, logsnr=uneven)
  np.testing.assert_allclose(masked, plain['per_frame'][:, 0].mean() / 2, rtol=1e-6)
  np.testing.assert_array_equal(about['per_frame'][:, 1], 0)
