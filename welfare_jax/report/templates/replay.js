// Text from the run reaches the page through textContent only. `#turn=5` in the address opens turn 5.
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
  const signed = (v) => (v < 0 ? '\u2212' : '+') + Math.abs(v).toFixed(1);

  const rows = frames[0].rows, width = Math.max(1, ...rows.map((row) => row.length)) * SIZE;
  svg.setAttribute('viewBox', `${-PAD} ${-PAD} ${width + PAD + 2} ${Math.max(1, rows.length) * SIZE + PAD + 2}`);
  const cells = rows.map((row, j) => [...row].map((_, i) => [
    make(svg, 'rect', {x: i * SIZE + 1, y: j * SIZE + 1, width: SIZE - 2, height: SIZE - 2, rx: 4}),
    make(svg, 'text', {x: (i + .5) * SIZE, y: (j + .5) * SIZE, 'font-size': 21})]));
  const mark = {'font-size': 13, class: 'mark'};
  for (let i = 0; i * SIZE < width; i += 2) make(svg, 'text', {x: (i + .5) * SIZE, y: -12, ...mark}, data.x0 + i);
  for (let j = 0; j < rows.length; j += 2) make(svg, 'text', {x: -13, y: (j + .5) * SIZE, ...mark}, data.y0 + j);
  const over = make(svg, 'g', {});

  function arrow(from, to, kind, shift) {
    const [x1, y1] = centre(from), [x2, y2] = centre(to), long = Math.hypot(x2 - x1, y2 - y1);
    if (!long) return;
    const ux = (x2 - x1) / long, uy = (y2 - y1) / long, sx = -uy * shift, sy = ux * shift;
    const wind = kind === 'wind', head = long - 2;
    const at = (along) => [x1 + sx + ux * along, y1 + sy + uy * along], turn = Math.atan2(uy, ux) * 180 / Math.PI;
    for (const [look, extra] of [['edge', 4], [kind, 0]]) {
      make(over, 'path', {d: `M${at(0)}L${at(head - 8)}`, class: look,
        'stroke-width': 5 + extra, 'stroke-dasharray': wind && !extra ? '7 4' : 'none'});
      make(over, 'path', {d: 'M0,0L-13,-8L-13,8Z', class: 'head ' + look, 'stroke-width': extra,
        transform: `translate(${at(head)}) rotate(${turn})`});
    }
    const [mx, my] = at(long / 2), side = {x: mx + Math.abs(uy) * 24, y: my + Math.abs(ux) * 16};
    if (wind) make(over, 'text', {...side, class: 'name'}, 'wind');
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
    make(over, 'polyline', {points: f.trail.map(centre).join(' '), class: 'trail'});
    if (acts) { arrow(f.at, f.landed, 'move', 0); arrow(f.landed, f.end, 'wind', 5); }
    const [x, y] = centre(f.at);
    make(over, 'circle', {cx: x, cy: y, r: 11, class: 'player'});
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
  const wanted = /turn=(\d+)/.exec(location.hash);
  show(wanted ? wanted[1] - 1 : 0);
}
