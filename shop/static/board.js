// Keeps the board's numbers and charts moving: asks for the figures once a second and puts them where they belong.
"use strict";

const EVERY_MS = 1000;
const LONGEST_MS = 10_000; // between two questions while nobody answers
const HEIGHT = 176;
const LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 22;
const CLASSES = ["one", "two", "three"];

const board = document.getElementById("board");
const hold = document.getElementById("hold");
const silence = document.getElementById("silence");
let rows = [];
let newest = 0;
let waitMs = EVERY_MS;
let held = false;
let differs = 0;
let timer = 0;

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function made(name, text, className) {
  const element = document.createElement(name);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function showRows(body, table) {
  const same = body.children.length === table.length && table.every((cells, at) => body.children[at].children[0].textContent === cells[0]);
  if (same) {
    table.forEach((cells, at) => cells.forEach((cell, column) => setText(body.children[at].children[column], cell)));
    return;
  }
  body.replaceChildren(...table.map(([name, ...cells]) => {
    const row = document.createElement("tr");
    const head = made("th", name, "mono");
    head.scope = "row";
    row.append(head, ...cells.map((cell) => made("td", cell, "number")));
    return row;
  }));
}

function showLights(lights) {
  const items = document.getElementById("lights").children;
  lights.forEach(({ name, says, colour }, at) => {
    const item = items[at];
    item.className = `light ${colour}`;
    setText(item.firstElementChild, name);
    setText(item.lastElementChild, says);
  });
}

function showBatches(batches) {
  const most = Math.max(1, ...batches);
  for (const cell of document.querySelectorAll("[data-batch]")) {
    const times = batches[cell.dataset.batch];
    const meter = cell.parentElement.querySelector("meter");
    meter.hidden = false;
    meter.value = times / most;
    setText(cell, times.toLocaleString("en"));
  }
}

// --- charts ---

function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// The next of 1, 2, 5, 10, 20, 50, ... that is not smaller.
function roundedUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function runs(values) {
  const found = [];
  values.forEach((value, at) => {
    if (value === null) return;
    if (at === 0 || values[at - 1] === null) found.push([]);
    found.at(-1).push([at, value]);
  });
  return found;
}

function draw(figure) {
  const picture = figure.querySelector("svg");
  const width = picture.clientWidth;
  const columns = figure.dataset.columns.split(" ").map(Number);
  const top = roundedUp(Math.max(4, ...rows.flatMap((row) => columns.map((column) => row[column] ?? 0))));
  const x = (at) => LEFT + (at * (width - LEFT - RIGHT)) / Math.max(1, rows.length - 1);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const parts = [];
  for (const value of [0, top / 2, top]) {
    parts.push(svg("line", { class: "grid-line", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    parts.push(svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, value.toLocaleString("en")));
  }
  const minutes = Math.round(rows.length / 60);
  for (let minute = 0; minute <= minutes; minute += 1) {
    const anchor = minute === 0 ? "end" : minute === minutes ? "start" : "middle";
    const at = x(Math.max(0, rows.length - 1 - minute * 60));
    parts.push(svg("text", { x: at, y: HEIGHT - 4, "text-anchor": anchor }, minute ? `−${minute} min` : "now"));
  }
  columns.forEach((column, nth) => {
    for (const run of runs(rows.map((row) => row[column]))) {
      const points = run.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
      if ("area" in figure.dataset) {
        parts.push(svg("polygon", { points: `${x(run[0][0])},${y(0)} ${points} ${x(run.at(-1)[0])},${y(0)}` }));
      }
      parts.push(svg("polyline", { class: CLASSES[nth], points }));
    }
  });
  picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.replaceChildren(...parts);
  const keys = [...figure.querySelectorAll(".key")].map((key) => key.textContent);
  const now = columns.map((column, nth) => `${keys[nth]} ${rows.at(-1)?.[column] ?? "none"}`).join(", ");
  picture.setAttribute("aria-label", `${figure.querySelector("h2").textContent}, now: ${now}; at most ${top} in the last three minutes.`);
}

function drawAll() {
  document.querySelectorAll(".chart").forEach(draw);
}

// --- the newest figures ---

// `isRecent`: the snapshot has the last seconds alone. They may tell anew what was told: figures come in for some seconds.
function takeRows(snapshot, isRecent) {
  if (isRecent) {
    const known = snapshot.rows.length - (snapshot.second - newest);
    rows = rows.concat(snapshot.rows.slice(known)).slice(-rows.length);
    rows.splice(-snapshot.rows.length, snapshot.rows.length, ...snapshot.rows);
  } else {
    rows = snapshot.rows;
  }
  newest = snapshot.second;
}

function show(snapshot, isRecent) {
  if (snapshot.paused.join(" ") !== board.dataset.paused) {
    // Somebody switched: other buttons, other words. One answer alone may be older than the page.
    differs += 1;
    if (differs > 1) location.reload();
    return;
  }
  differs = 0;
  if (isRecent && snapshot.second < newest) return; // another web process looked a moment before
  if (isRecent && snapshot.second - newest > snapshot.rows.length) {
    newest = 0; // too much was missed: all of it the next time
    return;
  }
  takeRows(snapshot, isRecent);
  for (const place of board.querySelectorAll("[data-place]")) setText(place, snapshot.text[place.dataset.place]);
  for (const body of board.querySelectorAll("[data-rows]")) showRows(body, snapshot[body.dataset.rows]);
  showLights(snapshot.lights);
  showBatches(snapshot.batches);
  drawAll();
}

async function ask() {
  const isRecent = newest > 0;
  const address = board.dataset.figures + (isRecent ? "?recent" : "");
  const answer = await fetch(address, { cache: "no-cache", signal: AbortSignal.timeout(5000) });
  if (answer.status === 403) {
    location.reload(); // signed out: the page leads to the sign-in
  } else if (answer.ok) {
    show(await answer.json(), isRecent);
  } else {
    throw new Error(`${answer.status}`);
  }
}

async function keepAsking() {
  if (held || document.hidden) return;
  try {
    await ask();
    waitMs = EVERY_MS;
    silence.hidden = true;
  } catch {
    waitMs = Math.min(LONGEST_MS, waitMs * 2);
    silence.hidden = false;
  }
  clearTimeout(timer);
  timer = setTimeout(keepAsking, waitMs);
}

function goOn() {
  clearTimeout(timer);
  waitMs = EVERY_MS;
  keepAsking();
}

if (board) {
  document.getElementById("charts").hidden = false;
  hold.hidden = false;
  hold.addEventListener("click", () => {
    held = !held;
    hold.setAttribute("aria-pressed", String(held));
    hold.textContent = held ? "Go on" : "Hold still";
    if (!held) goOn();
  });
  document.addEventListener("visibilitychange", () => document.hidden || goOn());
  new ResizeObserver(drawAll).observe(board);
  goOn();
}
