"""The replay's browser side: the markup of its frame, its CSS and its script. `replay.html` fills the frame."""

import string

from welfare_jax.report import style

FRAME = string.Template("""
<div class="replay" tabindex="0">
  <h3>$title</h3>
  <div class="stage">
    <div class="left">
      <svg role="img" aria-label="the maze around the player"></svg>
      <div class="legend">$legend<span><i class="player-dot"></i>player</span>
        <span><i class="arrow move"></i>own move</span><span><i class="arrow wind"></i>wind</span></div>
    </div>
    <div class="right">
      <div class="controls">
        <button data-go="first">start</button><button data-go="prev">&#x2039; prev</button>
        <button data-go="play">play</button><button data-go="next">next &#x203A;</button>
        <input type="range" min="0" max="$last" value="0" aria-label="turn">
      </div>
      <p class="where" aria-live="polite"></p>
      <p class="sum"></p>
      <div class="talk"><div class="user"></div><div class="assistant"></div></div>
      <div class="odds"></div>
      <p class="outcome"></p>
    </div>
  </div>
  $turns
  <script type="application/json">$data</script>
  <noscript>The replay needs JavaScript; the table above holds every turn.</noscript>
</div>""")

_CSS = """
.replay { border: 1px solid var(--line); border-radius: 10px; padding: 4px 18px 10px; margin: 0 0 20px; }
.replay:focus-visible { outline: 2px solid var(--mold); }
.stage { display: grid; grid-template-columns: minmax(0, 11fr) minmax(0, 9fr); gap: 20px; }
.replay svg { width: 100%; max-height: 560px; display: block; }
.replay svg text { text-anchor: middle; dominant-baseline: central; }
.tile-path { fill: $PATH; background: $PATH; } .tile-gold { fill: $GOLD; background: $GOLD; }
.tile-mold { fill: #8dbbd8; background: #8dbbd8; } .tile-melted { fill: $MOLD; background: $MOLD; }
.tile-unknown { fill: #fff; background: #fff; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: .82rem; color: var(--soft); padding-top: 8px; }
.legend i { display: inline-flex; width: 20px; height: 20px; border-radius: 4px; border: 1px solid #0002;
  margin-right: 5px; vertical-align: middle; align-items: center; justify-content: center; font-style: normal;
  font-size: 13px; }
.legend .player-dot { border-radius: 50%; background: var(--ink); border: 3px solid #fff;
  box-shadow: 0 0 0 1px #0004; }
.legend .arrow { height: 0; border: 0; border-radius: 0; border-top: 3px solid var(--ink); }
.legend .arrow.wind { border-top: 3px dashed var(--wind); }
.controls { display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 10px; }
.controls button { font: inherit; font-size: .85rem; padding: 3px 10px; border: 1px solid var(--line); color: inherit;
  border-radius: 6px; background: var(--card); cursor: pointer; }
.controls button:hover { border-color: var(--soft); }
.controls button:disabled { opacity: .4; cursor: default; }
.controls input { flex: 1 1 100%; accent-color: var(--ink); margin: 4px 0; }
.where { font-weight: 600; margin-bottom: 0; }
.sum { color: var(--soft); font-size: .9rem; font-variant-numeric: tabular-nums; margin-bottom: 8px; }
.talk div { white-space: pre-wrap; overflow-wrap: anywhere; padding: 8px 12px; border-radius: 10px; font-size: .9rem;
  width: fit-content; max-width: 100%; margin-bottom: 6px; line-height: 1.45; }
.talk .user { background: var(--card); border: 1px solid var(--line); }
.talk .assistant { background: var(--ink); color: #fff; margin-left: auto; font-weight: 600; }
.talk div:empty { display: none; }
.odds > div { display: grid; grid-template-columns: 1.2em 1fr 4em 9.5em; gap: 8px; align-items: center;
  font-size: .85rem; font-variant-numeric: tabular-nums; padding: 1px 0; }
.odds .bar { height: 13px; background: var(--card); border: 1px solid var(--line); border-radius: 3px; }
.odds .bar i { display: block; height: 100%; background: var(--soft); border-radius: 2px; }
.odds .chosen { font-weight: 700; } .odds .chosen .bar i { background: var(--ink); }
.odds .pct { text-align: right; white-space: nowrap; } .odds .near { color: var(--soft); font-weight: 400; }
.outcome { margin: 10px 0 6px; min-height: 3.2em; font-size: .92rem; }
@media (max-width: 760px) { .stage { grid-template-columns: minmax(0, 1fr); } .replay { padding: 4px 12px 10px; } }
"""


def css() -> str:
    return string.Template(_CSS).substitute(PATH=style.PATH, GOLD=style.GOLD, MOLD=style.MOLD)


# Text from the run reaches the page through textContent only. `#turn=5` in the address opens turn 5.
SCRIPT = """
for (const root of document.querySelectorAll('.replay')) {
  const data = JSON.parse(root.querySelector('script').textContent), frames = data.frames, last = frames.length - 1;
  const find = (query) => root.querySelector(query), svg = find('svg'), slider = find('input'), SIZE = 40, PAD = 26;
  const kinds = {'.': 'path', 'g': 'gold', '#': 'mold', 'x': 'melted', '?': 'unknown'};
  const make = (parent, name, attributes, text) => {
    const node = document.createElementNS(parent.namespaceURI, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  };
  const put = (parent, name, text) => Object.assign(parent.appendChild(document.createElement('div')),
    {className: name, textContent: text});
  const centre = ([x, y]) => [(x - data.x0 + .5) * SIZE, (y - data.y0 + .5) * SIZE];
  const signed = (v) => (v < 0 ? '\\u2212' : '+') + Math.abs(v).toFixed(1);

  const rows = frames[0].rows, width = Math.max(1, ...rows.map((row) => row.length)) * SIZE;
  svg.setAttribute('viewBox', `${-PAD} ${-PAD} ${width + PAD + 2} ${Math.max(1, rows.length) * SIZE + PAD + 2}`);
  const cells = rows.map((row, j) => [...row].map((_, i) => [
    make(svg, 'rect', {x: i * SIZE + 1, y: j * SIZE + 1, width: SIZE - 2, height: SIZE - 2, rx: 4}),
    make(svg, 'text', {x: (i + .5) * SIZE, y: (j + .5) * SIZE, 'font-size': 21})]));
  const mark = {'font-size': 13, fill: '#5b6670'};
  for (let i = 0; i * SIZE < width; i += 2) make(svg, 'text', {x: (i + .5) * SIZE, y: -12, ...mark}, data.x0 + i);
  for (let j = 0; j < rows.length; j += 2) make(svg, 'text', {x: -13, y: (j + .5) * SIZE, ...mark}, data.y0 + j);
  const over = make(svg, 'g', {});

  function arrow(from, to, kind, shift) {
    const [x1, y1] = centre(from), [x2, y2] = centre(to), long = Math.hypot(x2 - x1, y2 - y1);
    if (!long) return;
    const ux = (x2 - x1) / long, uy = (y2 - y1) / long, sx = -uy * shift, sy = ux * shift;
    const wind = kind === 'wind', colour = wind ? '$WIND' : '$INK', head = long - 2;
    const at = (along) => [x1 + sx + ux * along, y1 + sy + uy * along], turn = Math.atan2(uy, ux) * 180 / Math.PI;
    for (const [stroke, extra] of [['#fff', 4], [colour, 0]]) {
      make(over, 'path', {d: `M${at(0)}L${at(head - 8)}`, stroke, fill: 'none',
        'stroke-width': 5 + extra, 'stroke-dasharray': wind && !extra ? '7 4' : 'none'});
      make(over, 'path', {d: 'M0,0L-13,-8L-13,8Z', fill: colour, stroke, 'stroke-width': extra,
        transform: `translate(${at(head)}) rotate(${turn})`});
    }
    const [mx, my] = at(long / 2), side = {x: mx + Math.abs(uy) * 24, y: my + Math.abs(ux) * 16};
    if (wind) make(over, 'text', {...side, fill: colour, 'font-size': 12, 'font-weight': 700,
      stroke: '#fff', 'stroke-width': 3, 'paint-order': 'stroke'}, 'wind');
  }

  let now = 0, timer = null;
  function show(k) {
    now = Math.max(0, Math.min(last, k));
    const f = frames[now], acts = f.action !== undefined;
    f.rows.forEach((row, j) => [...row].forEach((sign, i) => {
      const [tile, label] = cells[j][i];
      tile.setAttribute('class', 'tile-' + kinds[sign]);
      label.textContent = data.tiles[sign];
    }));
    over.replaceChildren();
    make(over, 'polyline', {points: f.trail.map(centre).join(' '), fill: 'none', stroke: '$INK',
      'stroke-width': 2.5, 'stroke-opacity': .45});
    if (acts) { arrow(f.at, f.landed, 'move', 0); arrow(f.landed, f.end, 'wind', 5); }
    const [x, y] = centre(f.at);
    make(over, 'circle', {cx: x, cy: y, r: 11, fill: '$INK', stroke: '#fff', 'stroke-width': 3});
    slider.value = now;
    find('.where').textContent = (acts ? `Turn ${now + 1} of ${last}` : `After ${last} turns`) +
      `, at (${f.at.join(', ')})`;
    find('.sum').textContent = `so far: reward ${signed(f.reward)}, Gold ${f.gold}, Mold ${f.mold}`;
    find('.user').textContent = f.message || '';
    find('.assistant').textContent = acts ? f.letter : '';
    find('.outcome').textContent = f.outcome;
    const odds = find('.odds');
    odds.replaceChildren();
    (f.probs || []).forEach((p, i) => {
      const line = put(odds, i === f.action ? 'chosen' : '', '');
      put(line, '', data.letters[i]);
      put(line, 'bar', '').appendChild(document.createElement('i')).style.width = 100 * (p || 0) + '%';
      put(line, 'pct', p === null ? '?' : (100 * p).toFixed(1) + ' %');
      put(line, 'near', data.tiles[f.near[i]] + ' ' + data.names[f.near[i]]);
    });
    find('[data-go=first]').disabled = find('[data-go=prev]').disabled = now === 0;
    find('[data-go=next]').disabled = now === last;
  }
  function stop() { clearInterval(timer); timer = null; find('[data-go=play]').textContent = 'play'; }
  function play() {
    if (timer) return stop();
    if (now === last) show(0);
    find('[data-go=play]').textContent = 'pause';
    timer = setInterval(() => { show(now + 1); if (now === last) stop(); }, 1100);
  }
  const go = {first: () => show(0), prev: () => show(now - 1), next: () => show(now + 1), play};
  for (const button of root.querySelectorAll('[data-go]')) button.onclick = () => {
    if (button.dataset.go !== 'play') stop();
    go[button.dataset.go]();
  };
  slider.oninput = () => { stop(); show(+slider.value); };
  root.onkeydown = (event) => {
    const to = {ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last}[event.key];
    if (to === undefined || event.target === slider) return;  // the slider moves by itself
    event.preventDefault(); stop(); show(to);
  };
  const wanted = /turn=(\\d+)/.exec(location.hash);
  show(wanted ? wanted[1] - 1 : 0);
}
""".replace("$WIND", style.WIND).replace("$INK", style.TRAINED)
