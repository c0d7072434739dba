from __future__ import annotations

from vdm_jax.inputs.caption_lengths import cut_report, length_keeping


def test_the_length_that_keeps_95_percent():
  assert length_keeping(range(1, 101)) == 95
  assert length_keeping([7]) == 7
  assert length_keeping([3] * 94 + [9] * 6) == 9
  assert length_keeping([3] * 19 + [9]) == 3  # 95 % exactly


def test_the_report_counts_every_caption_once():
  lengths = [2] * 10 + [5] * 4 + [20] * 2
  assert cut_report(lengths, 20) is None
  first, title, *bars = cut_report(lengths, 4, 'words').splitlines()
  assert first.startswith('6 of 16 captions (38%) are longer than data.text_length=4')
  assert '20 words keep 95%' in first
  assert title == 'words per caption:'
  assert sum(int(bar.split('#')[0].split()[-1]) for bar in bars) == 16
  assert bars[0].split() == ['2', 'to', '4', '10', '#' * 40] and bars[-1].split() == ['20', '2', '#' * 8]
