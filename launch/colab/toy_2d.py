"""Source of toy_2d.ipynb, which `python launch/colab/execute.py toy_2d` writes and runs."""
# ruff: noqa: E402

# %% [markdown]
# # Video diffusion in two dimensions, with closed-form answers
#
# A video model consists of a denoiser, a process, steps and guidance. None of them depends on whether `x` is a video of
# a million numbers or a point of two. Here it is a point from a mixture of Gaussians: the ideal denoiser, every
# conditional distribution and exact samples are known in closed form, and nothing is trained. Everything else is the
# library's code, called as for a video model.
#
# It takes a minute or two to run on a CPU, and an hour to read.
#
# The papers are **VDM**, *Video Diffusion Models* (Ho et al. 2022), and **Snap**, *Snap Video* (Menapace et al. 2024),
# which builds on **EDM** (Karras et al. 2022).

# %%
# @title Installation (on Colab only)
import shutil
import subprocess
import sys
from pathlib import Path

repository = ''  # @param {type:"string"}
# The source for pip, such as git+https://HOST/OWNER/vdm_jax.

if 'google.colab' in sys.modules:
  if not repository:
    raise ValueError('repository is empty: enter the source for pip above.')
  is_tpu = any(Path('/dev').glob('accel*')) or any(Path('/dev/vfio').glob('*'))
  extra = '[cuda12]' if shutil.which('nvidia-smi') else '[tpu]' if is_tpu else ''
  package = f'vdm_jax{extra} @ {repository}'
  subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', package], check=True)

# %%
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from vdm_jax import diffusion, sampling
from vdm_jax.types import Conditioning

jax.config.update('jax_default_matmul_precision', 'highest')  # a TPU would round to bfloat16
plt.rcParams.update({'figure.dpi': 64, 'font.size': 9, 'axes.titlesize': 9, 'legend.fontsize': 8})
device = jax.default_backend()
print(f'jax {jax.__version__} on {device}')

# %% tags=["parameters"]
num_points = {'cpu': 4_000}.get(device, 40_000)  # samples per experiment
budgets = (5, 9, 17, 33, 65, 129)  # evaluations of the denoiser; odd, as Heun needs
reference_points = 2_049  # grid points that approximate infinitely many steps
num_steps = 128  # grid points of the other experiments

# %% [markdown]
# ## 1. The data and their ideal denoiser
#
# The data are two crescents of six isotropic Gaussians each, with standard deviation $s$:
# $x \sim \sum_k w_k\,\mathcal N(m_k, s^2 I)$. The crescent is the *class* of a point and takes the role of a caption.
#
# A diffusion model gets $z = \alpha x + \sigma \epsilon$ with $\epsilon \sim \mathcal N(0, I)$ and is trained to
# predict $x$ with a squared error. The optimal prediction is $\hat x(z) = \mathrm E[x \mid z]$. For a mixture this is a
# softmax over the components:
#
# $$\hat x(z) = \sum_k r_k \Big(m_k + \frac{\alpha s^2}{\alpha^2 s^2 + \sigma^2}\,(z - \alpha m_k)\Big), \qquad
# r_k \propto w_k\,\mathcal N(z;\ \alpha m_k,\ (\alpha^2 s^2 + \sigma^2) I).$$
#
# A `Denoiser` is a function `(z, logsnr[b], cond, carry) -> (x_hat, carry)`. Time is measured by the log
# signal-to-noise ratio only: $\lambda = \log(\alpha^2/\sigma^2)$, `logsnr`. `cond` is the condition, and `carry` is
# state that a network passes to its next evaluation (Snap's FIT passes its latent tokens; this denoiser passes
# nothing).

# %%
angles = np.linspace(0.1, 0.9, 6) * np.pi
upper = np.stack([0.6 * np.cos(angles) - 0.2, 0.7 * np.sin(angles) - 0.25], -1)
MEANS = np.concatenate([upper, -upper]).astype(np.float32)  # [k 2]
CLASSES = np.repeat([0, 1], 6)  # [k]
WEIGHTS = np.full(12, 1 / 12)
STD = 0.11


def allowed(cond):
  """Return 0 for the components that a condition allows, -inf for the others: `[b k]`."""
  if cond is None:
    return jnp.zeros(len(CLASSES))
  mine = jnp.asarray(CLASSES) == cond.label
  return jnp.where(mine if cond.drop is None else mine | cond.drop, 0.0, -jnp.inf)


def exact(process):
  """Return the ideal denoiser of the data, given the class in `cond` if there is one."""

  def denoiser(z, logsnr, cond, carry):
    alpha, sigma = (diffusion.expand_dims_like(coefficient(logsnr), z) for coefficient in process)  # [b 1]
    variance = (alpha * STD) ** 2 + sigma**2
    offset = z[:, None] - alpha[..., None] * MEANS  # [b k 2]
    share = jax.nn.softmax(jnp.log(WEIGHTS) + allowed(cond) - (offset**2).sum(-1) / (2 * variance), -1)
    x_hat = share @ MEANS + alpha * STD**2 / variance * (share[..., None] * offset).sum(1)
    return x_hat, carry

  return denoiser


def draw(rng, n, label=None):
  """Return `n` exact samples of the data, or of one class, and their classes."""
  which_key, noise_key = jax.random.split(rng)
  logits = jnp.log(WEIGHTS) + (0.0 if label is None else jnp.where(label == CLASSES, 0.0, -jnp.inf))
  which = jax.random.categorical(which_key, logits, shape=(n,))
  return jnp.asarray(MEANS)[which] + STD * jax.random.normal(noise_key, (n, 2)), jnp.asarray(CLASSES)[which]


class Plane(NamedTuple):
  """A grid of points to plot densities on."""

  side: np.ndarray = np.linspace(-1.4, 1.4, 141)

  def density(self, label=None):
    """Return p(x), or p(x | class), `[141 141]`."""
    points = np.stack(np.meshgrid(self.side, self.side), -1)
    weights = WEIGHTS if label is None else np.where(label == CLASSES, 2 * WEIGHTS, 0)
    square = ((points[..., None, :] - MEANS) ** 2).sum(-1)
    return (weights * np.exp(-square / (2 * STD**2))).sum(-1) / (2 * np.pi * STD**2)

  def contour(self, axis, density, **options):
    axis.contour(self.side, self.side, density, levels=5, linewidths=0.6, **options)
    axis.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect='equal', xticks=(-1, 0, 1), yticks=(-1, 0, 1))


plane = Plane()
x, classes = draw(jax.random.key(0), num_points)
figure, axis = plt.subplots(figsize=(3.6, 3.6))
axis.scatter(*x[:1_500].T, s=2, c=np.where(classes[:1_500], 'tab:orange', 'tab:blue'))
plane.contour(axis, plane.density(), colors='black')
axis.set_title('exact samples, colored by class, and the density')
plt.show()

# %% [markdown]
# ## 2. Two processes
#
# A `GaussianProcess` is two functions of $\lambda$ (VDM Eq. 1: $q(z_t|x) = \mathcal N(\alpha_t x, \sigma_t^2 I)$):
#
# | | $\alpha$ | $\sigma$ | |
# |---|---|---|---|
# | `variance_preserving()` | $\sqrt{\mathrm{sigmoid}(\lambda)}$ | $\sqrt{\mathrm{sigmoid}(-\lambda)}$ | VDM section 2 |
# | `input_scaled(sigma_in)` | $1/\sigma_{in}$ | $e^{-\lambda/2}/\sigma_{in}$ | Snap section 3.2; EDM: $\sigma_{in}=1$ |
#
# At the same $\lambda$ both contain the same information: one `z` is a multiple of the other. Snap's $\sigma_{in}$
# changes *which* $\lambda$ are trained and sampled, because the noise $\sigma$ is drawn from a fixed distribution:
# $\lambda = -2 \log(\sigma\,\sigma_{in})$. Large videos are redundant: a noisy frame reveals much about its neighbors,
# so they need more noise to hide the same information.

# %%
PROCESSES = {
  'variance preserving': diffusion.variance_preserving(),
  'input scaled, sigma_in = 4': diffusion.input_scaled(4.0),
}
eps = jax.random.normal(jax.random.key(1), x.shape)
levels = (6.0, 3.0, 0.0, -3.0, -6.0)
figure, axes = plt.subplots(2, len(levels), figsize=(11, 4.8))
for row, (name, process) in zip(axes, PROCESSES.items(), strict=True):
  for axis, level in zip(row, levels, strict=True):
    z = diffusion.diffuse(process, x, eps, jnp.full(len(x), level))
    axis.scatter(*z[:800].T, s=1, c=np.where(classes[:800], 'tab:orange', 'tab:blue'))
    alpha, sigma = float(process.alpha(level)), float(process.sigma(level))
    span = 3.2 * np.hypot(0.5 * alpha, sigma)
    axis.set(xlim=(-span, span), ylim=(-span, span), aspect='equal')
    axis.set_title(f'logsnr {level:g}\nalpha {alpha:.3f}, sigma {sigma:.3f}')
  row[0].set_ylabel(name)
figure.tight_layout()
plt.show()

vp, scaled = PROCESSES.values()
level = jnp.full(len(x), -3.0)
ratio = diffusion.diffuse(scaled, x, eps, level) / diffusion.diffuse(vp, x, eps, level)
print(f'at logsnr -3 the ratio of the two z is {float(ratio.min()):.6f} to {float(ratio.max()):.6f}')

# %% [markdown]
# ### Noise levels for training and sampling
#
# VDM draws $\lambda$ from the cosine schedule, $\lambda = -2 \log\tan(a u + b)$ with uniform $u$ (appendix A). EDM and
# Snap draw $\log \sigma \sim \mathcal N(-1.2, 1.2^2)$ (EDM Table 1). Sampling follows a *grid* of levels from noise
# to data: `cosine_grid` is uniform in $u$, `karras_grid` in $\sigma^{1/7}$ (EDM Eq. 5).

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.8))
samplers = {
  'cosine (VDM)': diffusion.cosine_sampler(),
  'cosine, shift -2': diffusion.cosine_sampler(shift=-2.0),
  'lognormal, sigma_in 1 (EDM)': diffusion.lognormal_sampler(),
  'lognormal, sigma_in 4 (Snap)': diffusion.lognormal_sampler(sigma_in=4.0),
}
for name, sampler in samplers.items():
  drawn = sampler(jax.random.key(2), num_points)
  left.hist(np.asarray(drawn), bins=80, range=(-15, 15), density=True, histtype='step', label=name)
left.legend()
left.set(title='training levels', xlabel='logsnr')
grids = {
  'cosine': diffusion.cosine_grid(24),
  'karras, sigma_in 1': diffusion.karras_grid(24, sigma_min=0.002, sigma_max=80.0),
  'karras, sigma_in 4': diffusion.karras_grid(24, sigma_min=0.002, sigma_max=80.0, sigma_in=4.0),
}
for height, grid in enumerate(grids.values()):
  right.plot(np.asarray(grid), np.full(24, height), '|', markersize=16)
right.set(title='sampling grids of 24 levels', xlabel='logsnr', ylim=(-0.6, 2.6))
right.set_yticks(range(3), list(grids))
figure.tight_layout()
plt.show()

# %% [markdown]
# ## 3. Every parameterization with every process
#
# A network predicts some $F$. A record of coefficients converts it to $\hat x$ and defines its training target:
#
# $$\hat x = \mathtt{skip}\,z + \mathtt{out}\,F(\mathtt{input}\,z), \qquad
# F_{target} = \mathtt{target\_x}\,x + \mathtt{target\_eps}\,\epsilon, \qquad
# \text{loss} = \mathtt{weight}\,|F - F_{target}|^2$$
#
# VDM predicts $\epsilon$ or $v = \alpha\epsilon - \sigma x$ (section 2). EDM's $F$ has unit variance at input and
# output (Table 1). Snap derives its parameterization in appendix E (Eqs. 24 to 36); for $\sigma_{in} = 1$ and
# unit-variance data it equals $v$.
#
# The table shows the coefficients at $\lambda = 2$. As a check, the ideal denoiser is converted to the ideal *network*
# of each row and back by `precondition` (column `error`). Then `denoising_loss` (VDM Eq. 2, Snap Eq. 3) is computed for
# this network's output times 1/2, 1 and 3/2. The ideal network has the smallest loss. It is not zero, because $z$ does
# not determine $x$.

# %%
PARAMETERIZATIONS = {
  'eps': diffusion.predict_eps,
  'v': diffusion.predict_v,
  'x': diffusion.predict_x,
  'edm': diffusion.edm(sigma_data=0.5),
  'snap': diffusion.snap(sigma_data=0.5),
}


def ideal_network(process, parameterization, factor=1.0):
  """Return a perfectly trained network with its output times `factor`: F = (x_hat - skip z) / out."""

  def network(scaled_z, logsnr, cond, carry):
    c = parameterization(process.alpha(logsnr), process.sigma(logsnr))
    z = scaled_z / diffusion.expand_dims_like(c.input, scaled_z)
    x_hat, carry = exact(process)(z, logsnr, cond, carry)
    return factor * (x_hat - diffusion.expand_dims_like(c.skip, z) * z) / diffusion.expand_dims_like(c.out, z), carry

  return network


def check(process, parameterization):
  """Return the coefficients at logsnr 2, the largest error of x_hat over all levels, and three losses."""
  logsnr = jnp.linspace(-8.0, 8.0, len(x))
  z = diffusion.diffuse(process, x, eps, logsnr)
  denoiser = diffusion.precondition(ideal_network(process, parameterization), process, parameterization)
  error = jnp.abs(denoiser(z, logsnr, None, None)[0] - exact(process)(z, logsnr, None, None)[0]).max()
  losses = [
    diffusion.denoising_loss(
      ideal_network(process, parameterization, factor),
      x,
      None,
      jax.random.key(3),
      process=process,
      parameterization=parameterization,
      sample_logsnr=diffusion.cosine_sampler(logsnr_min=-8.0, logsnr_max=8.0),
    )[0]
    for factor in (0.5, 1.0, 1.5)
  ]
  return parameterization(process.alpha(jnp.float32(2.0)), process.sigma(jnp.float32(2.0))), error, losses


print(
  f'{"process":<28}{"F":<6}'
  + ''.join(f'{name:>11}' for name in (*diffusion.Coefficients._fields, 'error'))
  + '    loss at F/2, F, 3F/2'
)
for process_name, process in PROCESSES.items():
  for name, parameterization in PARAMETERIZATIONS.items():
    coefficients, error, losses = check(process, parameterization)
    print(
      f'{process_name:<28}{name:<6}'
      + ''.join(f'{float(value):>11.3f}' for value in coefficients)
      + f'{float(error):>11.0e}    '
      + ' '.join(f'{float(loss):.4f}' for loss in losses)
    )

# %% [markdown]
# ## 4. Steps
#
# A `Step` maps $z_t$ to the less noisy $z_s$. With $r = e^{\lambda_t - \lambda_s}$:
#
# * `ancestral(process, gamma)` samples the reverse process (VDM Eqs. 3, 4). The mean is
#   $r \frac{\alpha_s}{\alpha_t} z_t + (1-r)\,\alpha_s \hat x$ and the variance
#   $\tilde\sigma_{s\mid t}^{2(1-\gamma)} \sigma_{t\mid s}^{2\gamma}$, between that of $q(z_s|z_t,x)$ and that of
#   $q(z_t|z_s)$.
# * `ddim(process)` is $\alpha_s \hat x + \sigma_s \hat\epsilon$, where
#   $\hat\epsilon = (z_t - \alpha_t \hat x)/\sigma_t$ (Song et al. 2021, $\eta = 0$).
# * `heun(process, churn)` is the trapezoidal rule for $z/\alpha$ as a function of $\sigma/\alpha$, with two evaluations
#   (EDM Algorithms 1 and 2; Snap section 3.2).
# * `langevin_corrected(step, process, delta)` moves another step's $z_s$ to
#   $z_s - \frac{\delta}{2} \sigma_s \hat\epsilon + \sqrt{\delta}\,\sigma_s \epsilon'$ at the same level (VDM Eq. 5).
# * `redraw(step, process, observed, mask)` redraws the observed part from $q(z_s \mid x)$ after another step (VDM
#   section 3.1).
#
# `sample` applies a step along a grid and denoises once at the end. Below, its parts `begin` and `advance` give the
# trajectories of sixteen points.

# %%
STEPS = {
  'ancestral': sampling.ancestral(vp),
  'ddim': sampling.ddim(vp),
  'heun': sampling.heun(vp),
  'langevin corrected': sampling.langevin_corrected(sampling.ancestral(vp), vp, delta=0.3),
}


def noise(process, grid, n, seed=4):
  """Return the start of sampling: sigma at the first level times unit noise."""
  return process.sigma(grid[0]) * jax.random.normal(jax.random.key(seed), (n, 2))


def trajectory(step, grid, z):
  """Return z at every level of the grid, `[N b 2]`."""
  state = sampling.begin(exact(vp), step, grid, z, None)
  one = jax.jit(lambda state, i: sampling.advance(exact(vp), step, grid, state, jax.random.key(5), None, i, i + 1))
  path = [state[0]]
  for i in range(len(grid) - 1):
    state = one(state, i)
    path.append(state[0])
  return np.stack(path)


grid = diffusion.karras_grid(33, sigma_min=0.01, sigma_max=20.0)
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
for axis, (name, step) in zip(axes, STEPS.items(), strict=True):
  path = trajectory(step, grid, noise(vp, grid, 16))
  plane.contour(axis, plane.density(), colors='grey')
  axis.plot(*path.transpose(2, 0, 1), linewidth=0.7)
  axis.scatter(*path[-1].T, s=9, c='black', zorder=3)
  axis.set(title=name, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
figure.tight_layout()
plt.show()

# %% [markdown]
# The deterministic steps follow smooth curves from the same noise to the same point. The others end at *some* point of
# the correct distribution.
#
# Samples do not depend on the process: the same noise gives the same samples.

# %%
grid = diffusion.cosine_grid(num_steps, logsnr_min=-12.0, logsnr_max=12.0)
for name, make in {'ancestral': sampling.ancestral, 'ddim': sampling.ddim, 'heun': sampling.heun}.items():
  first, second = (
    sampling.sample(exact(p), make(p), grid, noise(p, grid, num_points), jax.random.key(5), None)
    for p in PROCESSES.values()
  )
  median = np.median(np.linalg.norm(first - second, axis=-1))
  print(f'{name:<10} median distance between samples of the two processes: {median:.0e}')

# %% [markdown]
# ## 5. How many evaluations?
#
# Evaluations of the denoiser dominate the cost. A grid of N points needs N evaluations, 2N - 1 with Heun, and N - 1
# more with Langevin correction.
#
# The left plot shows the deterministic steps: the distance of each point to its limit for infinitely many steps. On
# logarithmic axes a method of order $p$ is a line of slope $-p$: with half the steps, DDIM's error doubles and Heun's
# quadruples. The right plot shows the sliced Wasserstein distance between samples of all steps and exact samples. The
# dashed line is the distance between two sets of exact samples, below which differences are not measurable.

# %%
PER_STEP = {'ancestral': 1, 'ddim': 1, 'heun': 2, 'langevin corrected': 2}  # evaluations, plus one at the end


def sampler(step):
  """Return a function of the number of grid points. It compiles once: the grid is padded, its length an argument."""

  @jax.jit
  def run(grid, steps):
    state = sampling.begin(exact(vp), step, grid, noise(vp, grid, num_points), None)
    state = sampling.advance(exact(vp), step, grid, state, jax.random.key(6), None, 0, steps)
    return sampling.finish(exact(vp), grid, state, None)

  def sample(n):
    grid = diffusion.karras_grid(n, sigma_min=0.002, sigma_max=80.0)
    return np.asarray(run(jnp.pad(grid, (0, reference_points - n), mode='edge'), n - 1))

  return sample


def sliced_wasserstein(a, b):
  """Return the root mean square distance of sorted projections onto 32 directions."""
  angle = np.pi * np.arange(32) / 32
  directions = np.stack([np.cos(angle), np.sin(angle)])
  return np.sqrt(np.mean((np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)) ** 2))


exact_x, other_x = (np.asarray(draw(jax.random.key(seed), num_points)[0]) for seed in (7, 8))
samplers = {name: sampler(step) for name, step in STEPS.items()}
truth = samplers['heun'](reference_points)
distance, deviation = {}, {}
for name, sample in samplers.items():
  samples = [sample((budget - 1) // PER_STEP[name] + 1) for budget in budgets]
  deviation[name] = [sliced_wasserstein(s, exact_x) for s in samples]
  if name in ('ddim', 'heun'):
    distance[name] = [np.median(np.linalg.norm(s - truth, axis=-1)) for s in samples]

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
for name, errors in distance.items():
  order = -np.polyfit(np.log(budgets[-3:]), np.log(errors[-3:]), 1)[0]
  left.loglog(budgets, errors, 'o-', label=f'{name}: order {order:.1f} over the last three')
left.set(title='median distance to the limit', xlabel='evaluations')
for name, errors in deviation.items():
  right.loglog(budgets, errors, 'o-', label=name)
right.axhline(sliced_wasserstein(exact_x, other_x), linestyle='--', color='grey', label='two sets of exact samples')
right.set(title='sliced Wasserstein distance to exact samples', xlabel='evaluations')
for axis in (left, right):
  axis.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# ## 6. Guidance towards a condition
#
# *Classifier-free guidance* (VDM Eq. 6) extrapolates from the unconditional to the conditional prediction:
# $\tilde x(z, c) = (1 + w)\,\hat x(z, c) - w\,\hat x(z)$. A weight of 0 disables it; VDM's tables print $1 + w$. It is
# the *score* of $p(z|c)\,p(c|z)^w$ at every noise level. The contours show $p(x|c)\,p(c|x)^w$, which the samples follow
# only approximately: the tilted densities of different levels are not diffused versions of each other, so the
# distribution of guided samples has no closed form. Guidance moves samples away from the other class and concentrates
# them.

# %%
CLASS = Conditioning(label=jnp.zeros((num_points, 1), jnp.int32))
grid = diffusion.cosine_grid(num_steps, logsnr_min=-12.0, logsnr_max=12.0)


def null(cond):
  return cond._replace(drop=jnp.ones_like(cond.label, bool))


@jax.jit
def guided(weight):  # an argument, so that other weights need no compilation
  denoiser = sampling.classifier_free(exact(vp), null, weight)
  return sampling.sample(denoiser, sampling.ddim(vp), grid, noise(vp, grid, num_points), jax.random.key(9), CLASS)


def probability_of_class(x):
  """Return p(class 0 | x) of each sample, the confidence of an ideal classifier."""
  square = ((x[:, None] - MEANS) ** 2).sum(-1) / (2 * STD**2)
  parts = np.exp(square.min(1, keepdims=True) - square)
  return parts[:, CLASSES == 0].sum(1) / parts.sum(1)


def describe(name, x):
  x = np.asarray(x)
  print(
    f'{name:<34}{probability_of_class(x).mean():>12.4f}{np.sqrt(x.var(0).sum()):>12.3f}'
    f'{(np.abs(x) > 1).any(1).mean():>24.1%}'
  )


weights = (0.0, 1.0, 3.0, 8.0)
density, class_density = plane.density(), plane.density(0)
figure, axes = plt.subplots(1, len(weights), figsize=(12, 3.2))
print(f'{"":<34}{"p(class)":>12}{"spread":>12}{"outside [-1, 1]":>24}')
for axis, weight in zip(axes, weights, strict=True):
  samples = guided(jnp.float32(weight))
  describe(f'guidance weight {weight:g}', samples)
  axis.hist2d(*np.asarray(samples).T, bins=70, range=[(-1.4, 1.4)] * 2, cmap='Blues')
  tilted = class_density * (class_density / (density + 1e-30)) ** weight
  plane.contour(axis, tilted / tilted.max(), colors='tab:red')
  axis.set_title(f'w = {weight:g}')
figure.tight_layout()
plt.show()

# %% [markdown]
# A large weight reduces the spread and moves samples out of the range of the data. Three remedies:
#
# * `oscillating` weights (Imagen Video, used by Snap in section 3.6): high at first, then alternating with a low one;
# * `clip`: $\hat x$ is clipped to [-1, 1] at every step, as VDM's authors do;
# * `dynamic_threshold` (Imagen): $\hat x$ is clipped to a percentile of $|\hat x|$ and divided by it. With only two
#   numbers the percentile is nearly the larger one, so here it scales points outside the range towards the center; a
#   video has enough numbers for a meaningful percentile.

# %%
strong = sampling.classifier_free(exact(vp), null, 8.0)
alternating = sampling.oscillating(grid, 8.0, 0.0, num_steps // 4)
remedies = {
  'w = 8': strong,
  'oscillating: 8 and 0': sampling.classifier_free(exact(vp), null, alternating),
  'w = 8, clip': sampling.clip(strong),
  'w = 8, dynamic threshold': sampling.dynamic_threshold(strong, 99.5),
}
figure, axes = plt.subplots(1, len(remedies), figsize=(12, 3.2))
print(f'{"":<34}{"p(class)":>12}{"spread":>12}{"outside [-1, 1]":>24}')
for axis, (name, denoiser) in zip(axes, remedies.items(), strict=True):
  z = noise(vp, grid, num_points)
  samples = sampling.sample(denoiser, sampling.ddim(vp), grid, z, jax.random.key(9), CLASS)
  describe(name, samples)
  axis.hist2d(*np.asarray(samples).T, bins=70, range=[(-1.4, 1.4)] * 2, cmap='Blues')
  plane.contour(axis, class_density, colors='grey')
  axis.add_patch(plt.Rectangle((-1, -1), 2, 2, fill=False, linewidth=0.6))
  axis.set_title(name)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## 7. Guidance towards observations
#
# The model above is not conditioned on coordinates. Can it fill in one given the other? For videos: frames given other
# frames, without training for it (VDM section 3.1). Here $x_2 = 0.1$ is given and $x_1$ is unknown; its exact
# distribution is a mixture again.
#
# * `replacement`: at every step the known part of $\hat x$ is replaced by its value. The unknown part is informed only
#   by the joint denoiser, which gets the known part with noise.
# * `redraw`: the paper's first variant, in which the known part of $z$ is redrawn after each step.
# * `reconstruction` (VDM Eq. 7): $\tilde x = \hat x - \frac{w_r \alpha}{2} \nabla_z |x^a - \hat x^a(z)|^2$, so that the
#   unknown part moves to where the known part is predicted correctly. Replacement is applied after it.
#
# `langevin_corrected` adds a step of Langevin dynamics at each noise level (VDM Eq. 5, $\delta = 0.1$). The table shows
# the Wasserstein distance between samples of $x_1$ and exact samples.

# %%
GIVEN = 0.1
OBSERVED, MASK = jnp.array([0.0, GIVEN]), jnp.array([False, True])
RECONSTRUCTION = (1.0, 2.0, 4.0, 16.0)


def conditional_of(means, given, observed_std, std):
  """Return `(weights, means, std)` of a coordinate given another that is independent of it within each component."""
  weight = WEIGHTS * np.exp(-((means[:, 1] - given) ** 2) / (2 * observed_std**2))
  return weight / weight.sum(), means[:, 0], std


def wasserstein(samples, mixture):
  """Return the mean distance of sorted samples to as many sorted exact samples."""
  weights, means, std = mixture
  rng = np.random.default_rng(0)
  drawn = means[rng.choice(len(weights), len(samples), p=weights)] + std * rng.normal(size=len(samples))
  return np.abs(np.sort(samples) - np.sort(drawn)).mean()


def density_of(mixture, points):
  weights, means, std = mixture
  return (weights * np.exp(-((points[:, None] - means) ** 2) / (2 * std**2))).sum(-1) / np.sqrt(2 * np.pi) / std


def replaced(weight):
  return sampling.replacement(exact(vp), OBSERVED, MASK)


def reconstructed(weight):
  denoiser = sampling.reconstruction(exact(vp), vp, lambda x: x[:, 1], GIVEN, weight)
  return sampling.replacement(denoiser, OBSERVED, MASK)


def fill_in(make_denoiser, wrap, langevin):
  """Return a compiled function from the guidance weight to samples `[b 2]`."""
  step = wrap(sampling.ancestral(vp))
  step = wrap(sampling.langevin_corrected(step, vp, delta=0.1)) if langevin else step
  z = noise(vp, grid, num_points)
  return jax.jit(lambda weight: sampling.sample(make_denoiser(weight), step, grid, z, jax.random.key(10), None))


def unchanged(step):
  return step


def redrawn(step):
  return sampling.redraw(step, vp, OBSERVED, MASK)


methods = {
  'nothing': (lambda weight: exact(vp), unchanged, (0.0,)),
  'replacement': (replaced, unchanged, (0.0,)),
  'redraw': (lambda weight: exact(vp), redrawn, (0.0,)),
  'reconstruction': (reconstructed, unchanged, RECONSTRUCTION),
}
mixture = conditional_of(MEANS, GIVEN, STD, STD)
line = np.linspace(-1.4, 1.4, 281)
shown = {}
print(f'{"":<28}{"plain":>10}{"Langevin":>10}')
for name, (make_denoiser, wrap, tried) in methods.items():
  runs = [fill_in(make_denoiser, wrap, langevin) for langevin in (False, True)]
  for weight in tried:
    title = f'{name}, w = {weight:g}' if weight else name
    plain, corrected = (np.asarray(run(jnp.float32(weight)))[:, 0] for run in runs)
    print(f'{title:<28}{wasserstein(plain, mixture):>10.4f}{wasserstein(corrected, mixture):>10.4f}')
    shown[title] = corrected
rng = np.random.default_rng(1)
drawn = mixture[1][rng.choice(12, num_points, p=mixture[0])] + STD * rng.normal(size=num_points)
print(f'{"other exact samples":<28}{wasserstein(drawn, mixture):>10.4f}')

titles = ['nothing', 'replacement', 'redraw', *(f'reconstruction, w = {weight:g}' for weight in RECONSTRUCTION[::2])]
figure, axes = plt.subplots(1, len(titles), figsize=(14, 2.6), sharey=True)
for axis, title in zip(axes, titles, strict=True):
  axis.hist(shown[title], bins=70, range=(-1.4, 1.4), density=True, color='lightsteelblue')
  axis.plot(line, density_of(mixture, line), color='tab:red')
  axis.set_title(f'{title}; Langevin')
figure.tight_layout()
plt.show()

# %% [markdown]
# Weights of 1 to 4 bring the samples closer to the exact distribution than either form of replacement; 16 is too much.
#
# ### Other measurements
#
# Eq. 8 allows any differentiable measurement: VDM guides by the error of the *downsampled* video to upsample a small
# video. The smallest such case: the mean of two pixels is known, $\frac{x_1 + x_2}{2} = 0.1$, and their difference is
# unknown. The samples should also have the given mean.
#
# Nothing is replaced here, so only the weight enforces the mean. In the last steps, where $\hat x \approx z / \alpha$,
# a mean of $n$ numbers keeps $1 - w_r / n$ of its error: none at $w_r = n = 2$, and above $2n$ it grows from step to
# step. (For a video downsampled by $f$ in height and width, $n = f^2$.)

# %%
MEAN = 0.1


def super_resolved(weight):
  return sampling.reconstruction(exact(vp), vp, lambda x: x.mean(-1), MEAN, weight)


sums = np.stack([MEANS[:, 0] - MEANS[:, 1], MEANS.mean(-1)], -1)
mixture = conditional_of(sums, MEAN, STD / np.sqrt(2), STD * np.sqrt(2))
run = fill_in(super_resolved, unchanged, langevin=True)
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
print(f'{"":<20}{"difference: distance to exact":>32}{"mean: RMS error":>32}')
for axis, weight in zip(axes, (0.0, 1.0, 2.0, 6.0), strict=True):
  samples = np.asarray(run(jnp.float32(weight)))
  error = np.sqrt(np.mean((samples.mean(-1) - MEAN) ** 2))
  print(f'w = {weight:<16g}{wasserstein(samples[:, 0] - samples[:, 1], mixture):>32.4f}{error:>32.4f}')
  plane.contour(axis, plane.density(), colors='grey')
  axis.scatter(*samples[:1_000].T, s=1)
  axis.plot(plane.side, 2 * MEAN - plane.side, color='tab:red', linewidth=0.6)
  axis.set_title(f'w = {weight:g}')
figure.tight_layout()
plt.show()

# %% [markdown]
# ## 8. From here to videos
#
# With a network instead of `exact(process)` and shape `[b t h w c]` instead of `[b 2]`, every line above stays the
# same:
#
# ```python
# model, params = vdm_jax.load('runs/digits')
# denoiser = model.denoiser(params)          # precondition(network, model.process, model.parameterization)
# ```
#
# `sample_t2v.ipynb` does this with the shipped models; `train_your_own.ipynb` trains a model on your clips.
