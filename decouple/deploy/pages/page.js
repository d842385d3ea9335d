"use strict";
// The page: the actor plays its game; what it is, what it sees and how long it takes.

const facts = JSON.parse(document.getElementById("facts").textContent);
const actor = new Actor(facts.actor);
const $ = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.hash.slice(1));
const FRAMES_A_SECOND = 30;

// Steps of the game as JSON: what the test compares with the rules in Python.
function trace(seed, steps) {
  const episodes = new Episodes(facts.game, seed, facts.skip);
  return Array.from({ length: steps }, () => {
    const observation = episodes.observation();
    const action = actor.act(observation);
    return [observation, action, episodes.step(action), episodes.over];
  });
}

const view = { seed: Number(asked.get("seed") ?? 0), speed: 1, running: true, returns: [], due: 0, last: null };
view.episodes = new Episodes(facts.game, view.seed, facts.skip);

function begin(seed) {
  Object.assign(view, { seed, returns: [], due: 0 });
  view.episodes = new Episodes(facts.game, seed, facts.skip);
  $("seed").value = seed;
}

function advance() {
  const observation = view.episodes.observation();
  const action = actor.act(observation);
  view.episodes.step(action);
  if (view.episodes.over) view.returns.push(view.episodes.total);
  view.last = { observation, action };
}

const short = (value) => (Number.isInteger(value) ? String(value) : value.toFixed(2));

function draw() {
  const canvas = $("game");
  const [width, height] = view.episodes.kind.SIZE;
  const [pen, scale] = [canvas.getContext("2d"), canvas.width / width];
  pen.fillStyle = "#10141f";
  pen.fillRect(0, 0, width * scale, height * scale);
  for (const [x, y, w, h, colour] of view.episodes.game.picture()) {
    pen.fillStyle = colour;
    pen.fillRect((x - w / 2) * scale, (y - h / 2) * scale, w * scale, h * scale);
  }
  if (view.last === null) return;
  view.last.observation.forEach((value, i) => ($(`sees${i}`).textContent = short(value)));
  view.episodes.kind.ACTIONS.forEach((_, i) => $(`does${i}`).classList.toggle("on", i === view.last.action));
  $("return").textContent = short(view.episodes.total);
  $("step").textContent = view.episodes.steps.toLocaleString("en");
  const mean = view.returns.reduce((sum, value) => sum + value, 0) / view.returns.length;
  $("mean").textContent = view.returns.length ? `${short(mean)} over ${view.returns.length}` : "none yet";
  drawNetwork();
}

// Each layer as a column of units, bright where they are active; at most 32 of a layer are drawn.
function drawNetwork() {
  const canvas = $("network");
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const columns = [actor.input, ...actor.layers.map((layer) => layer.out)].map((of) => of.subarray(0, 32));
  const across = columns.length > 1 ? (canvas.width - 40) / (columns.length - 1) : 0;
  const place = (column, unit) => {
    const gap = Math.min(26, (canvas.height - 20) / columns[column].length);
    return [20 + column * across, canvas.height / 2 + (unit - (columns[column].length - 1) / 2) * gap, gap];
  };
  actor.layers.forEach((layer, l) => {
    for (let j = 0; j < columns[l + 1].length; j++) {
      for (let i = 0; i < columns[l].length; i++) {
        const carried = layer.weight[j * layer.inputs + i] * columns[l][i];
        const strength = Math.min(1, Math.abs(carried));
        if (strength < 0.02) continue;
        pen.strokeStyle = carried > 0 ? `rgba(120,200,255,${0.6 * strength})` : `rgba(255,160,120,${0.6 * strength})`;
        pen.beginPath();
        pen.moveTo(...place(l, i).slice(0, 2));
        pen.lineTo(...place(l + 1, j).slice(0, 2));
        pen.stroke();
      }
    }
  });
  columns.forEach((units, c) => {
    const largest = Math.max(1, ...units.map(Math.abs));
    units.forEach((value, u) => {
      const [x, y, gap] = place(c, u);
      pen.beginPath();
      pen.arc(x, y, Math.max(1.5, Math.min(7, gap / 2 - 1)), 0, 2 * Math.PI);
      pen.fillStyle = value >= 0 ? "#78c8ff" : "#ffa078";
      pen.globalAlpha = 0.15 + (0.85 * Math.abs(value)) / largest;
      pen.fill();
      pen.globalAlpha = 1;
    });
  });
}

// Microseconds of a decision: the median of some batches, each as long as a page's coarse clock needs.
function timed() {
  const observation = view.episodes.observation();
  const batch = (calls) => {
    const before = performance.now();
    for (let i = 0; i < calls; i++) actor.act(observation);
    return performance.now() - before;
  };
  let calls = 100;
  while (calls < 1e6 && batch(calls) < 2) calls *= 2;
  const times = Array.from({ length: 9 }, () => (1000 * batch(calls)) / calls).sort((a, b) => a - b);
  $("microseconds").textContent = times[4] < 10 ? times[4].toFixed(2) : Math.round(times[4]);
}

function frame(now) {
  if (view.running) {
    view.due += (view.speed * Math.min(100, now - (view.before ?? now)) * FRAMES_A_SECOND) / 1000 / facts.skip;
    const until = performance.now() + 12;
    while (view.due >= 1 && performance.now() < until) {
      advance();
      view.due -= 1;
    }
    view.due = Math.min(view.due, 1);
  }
  view.before = now;
  draw();
  requestAnimationFrame(frame);
}

function rows(id, names, cells) {
  $(id).replaceChildren(
    ...names.map((name, i) => {
      const row = document.createElement("div");
      const [label, value] = [document.createElement("span"), document.createElement("b")];
      label.textContent = name;
      cells(row, value, i);
      row.append(label, value);
      return row;
    }),
  );
}

function start() {
  const [width, height] = view.episodes.kind.SIZE;
  Object.assign($("game"), { width: 8 * width, height: 8 * height });
  document.title = $("title").textContent = facts.title;
  rows("told", facts.told.map(([name]) => name), (_, value, i) => (value.textContent = facts.told[i][1]));
  rows("sees", facts.sees, (_, value, i) => (value.id = `sees${i}`));
  rows("does", view.episodes.kind.ACTIONS, (row, _, i) => (row.id = `does${i}`));
  $("seed").value = view.seed;
  $("seed").onchange = () => begin(Math.max(0, Math.min(2 ** 31 - 1, Math.trunc(Number($("seed").value)) || 0)));
  $("run").onclick = () => {
    view.running = !view.running;
    $("run").textContent = view.running ? "Pause" : "Play";
  };
  $("one").onclick = () => {
    if (view.running) $("run").click();
    advance();
  };
  $("speed").onchange = () => (view.speed = Number($("speed").value));
  for (let i = 0; i < Number(asked.get("skip") ?? 0); i++) advance();
  timed();
  setInterval(timed, 2000);
  requestAnimationFrame(frame);
}

if (asked.has("trace")) {
  const [seed, steps] = asked.get("trace").split(",").map(Number);
  const text = document.createElement("pre");
  text.id = "trace";
  text.textContent = JSON.stringify(trace(seed, steps));
  document.body.replaceChildren(text);
} else {
  start();
}
