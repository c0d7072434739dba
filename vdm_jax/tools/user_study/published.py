"""The published results of Snap Video's user studies: percent of votes for Snap Video over each baseline."""

from __future__ import annotations

from vdm_jax.tools.user_study.ballots import QUESTIONS

# Baseline -> percent by question, in the order of QUESTIONS. Table 6: 65 prompts of vivid motion, 5 votes each; the
# numbers for Gen-2 are whole numbers of 300 votes, so 60 prompts. Table 10: samples that the authors published.
TABLE_6 = {
  'gen-2': (44.3, 81.0, 96.0, 78.7),
  'pikalab': (61.5, 80.3, 89.2, 70.5),
  'floor33': (76.3, 80.9, 88.0, 79.1),
}
TABLE_10 = {
  'imagen-video': (66.9, 54.3, 49.4, 56.3),
  'pyoco': (63.3, 64.9, 57.1, 63.9),
  'video-ldm': (61.7, 64.4, 62.2, 65.8),
  'make-a-video': (80.0, 82.2, 82.2, 75.6),
}
PUBLISHED = {
  name: (table, dict(zip(QUESTIONS, shares, strict=True)))
  for table, rows in (('Table 6', TABLE_6), ('Table 10', TABLE_10))
  for name, shares in rows.items()
}


def row(baseline: str) -> str:
  """Return the published shares as a row of the table of `ballots.table`.

  >>> row('gen-2')
  '| Snap Video over gen-2 (Table 6) | 44.3 | 81.0 | 96.0 | 78.7 |'
  """
  table, shares = PUBLISHED[baseline]
  return f'| Snap Video over {baseline} ({table}) | ' + ' | '.join(f'{share:.1f}' for share in shares.values()) + ' |'
