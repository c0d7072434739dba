"""The voting page: pairs of videos side by side, questions, and a file of answers to save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdm_jax import pages

_BODY = """<header>
<h1>Which video is better?</h1>
<p class="quiet">Both videos were generated from the same text. Watch both, then answer. There are no wrong answers.</p>
</header>
<main>
<noscript><p>This page needs JavaScript. It runs only in your browser and sends nothing anywhere.</p></noscript>
<form id="start">
<p><label>Your number, from your invitation: <input id="number" type="number" min="1" required></label>
<button>Start</button></p>
</form>
<section id="vote" hidden aria-live="polite">
<p class="quiet"><progress id="progress" value="0"></progress> <span id="place"></span></p>
<h2 id="prompt" dir="auto" tabindex="-1"></h2>
<div class="pair">
<figure><video id="left" controls loop muted playsinline aria-label="left video"></video>
<figcaption>Left</figcaption></figure>
<figure><video id="right" controls loop muted playsinline aria-label="right video"></video>
<figcaption>Right</figcaption></figure>
</div>
<form id="questions"></form>
<p class="steps"><button type="button" id="back">Back</button> <button type="button" id="next">Next</button>
<button type="button" id="save">Save answers</button> <span id="state" class="quiet" role="status"></span></p>
</section>
</main>"""

_STYLE = """
.pair { display: grid; gap: 1rem; grid-template-columns: 1fr 1fr; max-width: 60rem; }
.pair img, .pair video { aspect-ratio: auto; min-height: 6rem; object-fit: contain; }
fieldset { border: 0; border-top: 1px solid var(--line); margin: .75rem 0 0; padding: .5rem 0 0; max-width: 60rem;
  display: flex; gap: .5rem 1.5rem; flex-wrap: wrap; align-items: center; }
legend { float: left; flex: 1 1 20rem; padding: 0; }
fieldset label { cursor: pointer; padding: .3rem .6rem; border: 1px solid var(--line); border-radius: .375rem;
  background: var(--card); }
.steps { margin-top: 1.25rem; max-width: 60rem; }
input[type=number] { font: inherit; width: 5rem; padding: .3rem; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: .375rem; }
progress { accent-color: var(--accent); width: min(20rem, 60%); }
"""

# Answers are [pair, question, letter of the file]. The browser stores them until they are saved, if it allows that.
_SCRIPT = """
const study = JSON.parse(document.getElementById('study').textContent);
const $ = (id) => document.getElementById(id);
const questions = Object.entries(study.questions);
let voter = 0, ballot = [], place = 0, answers = {}, unsaved = false;
const storageKey = () => study.study + '/' + voter;
function store() {
  unsaved = true;
  try { localStorage.setItem(storageKey(), JSON.stringify(answers)); } catch (error) { /* private window */ }
}
function restore() {
  try { return JSON.parse(localStorage.getItem(storageKey())) || {}; } catch (error) { return {}; }
}
function setVideo(id, file) {
  const old = $(id), isPicture = file.endsWith('.gif');
  const fresh = document.createElement(isPicture ? 'img' : 'video');
  fresh.id = id;
  if (isPicture) {
    fresh.alt = id + ' video';
  } else {
    fresh.controls = fresh.loop = fresh.muted = fresh.playsInline = true;
    fresh.setAttribute('aria-label', id + ' video');
    fresh.autoplay = !matchMedia('(prefers-reduced-motion: reduce)').matches;
  }
  fresh.src = './' + file;
  old.replaceWith(fresh);
}
function showProgress() {
  const given = Object.keys(answers).length, all = ballot.length * questions.length;
  $('state').textContent = given === all ? 'All questions are answered. Save the answers and send the file back.'
    : given + ' of ' + all + ' answers';
  $('progress').max = all;
  $('progress').value = given;
}
function show() {
  const [pair, left] = ballot[place];
  const letters = {left: left, right: left === 'a' ? 'b' : 'a'};
  $('place').textContent = 'Pair ' + (place + 1) + ' of ' + ballot.length;
  $('prompt').textContent = study.pairs[pair].prompt;
  for (const side of ['left', 'right']) setVideo(side, study.pairs[pair][letters[side]]);
  $('questions').replaceChildren(...questions.map(([name, question], number) => {
    const set = document.createElement('fieldset'), legend = document.createElement('legend');
    legend.textContent = question;
    set.append(legend);
    for (const [side, title] of [['left', 'Left'], ['right', 'Right']]) {
      const label = document.createElement('label'), radio = document.createElement('input');
      radio.type = 'radio';
      radio.name = 'question' + number;
      radio.value = letters[side];
      radio.checked = answers[pair + '/' + name] === letters[side];
      radio.addEventListener('change', () => { answers[pair + '/' + name] = radio.value; store(); showProgress(); });
      label.append(radio, ' ' + title);
      set.append(label);
    }
    return set;
  }));
  $('back').disabled = place === 0;
  $('next').disabled = place === ballot.length - 1;
  showProgress();
}
function move(by) { place += by; show(); $('prompt').focus(); }
$('number').max = study.ballots.length;
$('start').addEventListener('submit', (event) => {
  event.preventDefault();
  voter = Number($('number').value);
  ballot = study.ballots[voter - 1];
  answers = restore();
  $('start').hidden = true;
  $('vote').hidden = false;
  show();
});
$('questions').addEventListener('submit', (event) => event.preventDefault());
$('back').addEventListener('click', () => move(-1));
$('next').addEventListener('click', () => move(1));
$('save').addEventListener('click', () => {
  const given = Object.entries(answers).map(([name, letter]) => {
    const cut = name.indexOf('/');
    return [Number(name.slice(0, cut)), name.slice(cut + 1), letter];
  });
  const content = {format: study.format, study: study.study, voter: voter, answers: given};
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content)], {type: 'application/json'}));
  link.download = 'answers-' + study.study + '-' + voter + '.json';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  unsaved = false;
});
addEventListener('beforeunload', (event) => { if (unsaved) event.preventDefault(); });
"""


def page(study: Mapping[str, Any]) -> str:
  """Return the HTML page of a study.

  Args:
    study: its `format` and `study`, the `questions` name -> sentence, the `pairs` with `prompt` and the files `a` and
      `b`, and the `ballots`, for each voter a list of (pair, letter of the file on the left).
  """
  body = f'{_BODY}\n{pages.embedded("study", study)}'
  return pages.page('Which video is better?', body, style=_STYLE, script=_SCRIPT)
