// The storefront with a script: stock stays live, an order is placed and followed without leaving the page. Without it, the
// same forms and pages work by themselves.
"use strict";

const STOCK_EVERY_MS = 3000;
const ANSWER_WITHIN_MS = 10000;
const AGAIN_AFTER_MS = 2000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const online = () => (navigator.onLine ? pause(AGAIN_AFTER_MS) : new Promise((resolve) => addEventListener("online", resolve, { once: true })));

function announce(text) {
  document.getElementById("announcement").textContent = text;
}

// --- placing an order: one form, one key, sent until there is an answer ---

function say(form, text) {
  const line = form.querySelector(".progress");
  line.textContent = text;
  line.hidden = !text;
  announce(text);
}

async function placed(form, address, fields) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(address, {
        method: "POST", body: fields, headers: { Accept: "application/json" }, signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
      });
    } catch {
      say(form, "No connection. Your order is kept and is sent again by itself; it stays one order.");
      await online();
      continue;
    }
    if (answer.ok) return (await answer.json()).href;
    if (answer.status !== 429 && answer.status !== 503) return null;
    const { wait_s, is_paused } = await answer.json();
    const why = is_paused ? "We take no orders at present." : "Many are ordering at the moment.";
    say(form, `${why} Yours is kept and is sent again in ${wait_s} s; it stays one order.`);
    await pause(wait_s * 1000);
  }
}

addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.dataset.busy) {
    event.preventDefault();
    return;
  }
  const button = event.submitter;
  if (!button || !("places" in button.dataset)) return;
  event.preventDefault();
  form.dataset.busy = "yes";
  button.setAttribute("aria-busy", "true");
  say(form, "Placing your order …");
  const href = await placed(form, form.action, new URLSearchParams(new FormData(form, button)));
  if (href) location.assign(href);
  else form.submit();
});

// A page that the browser kept in memory shows old stock and an old key.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

// --- live stock ---

async function showStock() {
  const badges = [...document.querySelectorAll("[data-stock]")];
  if (!badges.length) return;
  const query = new URLSearchParams(badges.map((badge) => ["sku", badge.dataset.stock]));
  const answer = await fetch(`/watch/stock?${query}`);
  if (!answer.ok) return;
  const stock = await answer.json();
  for (const badge of badges) {
    const [units, words, kind] = stock[badge.dataset.stock] ?? [];
    if (words === undefined) continue;
    badge.textContent = words;
    badge.className = `badge ${kind}`;
    for (const button of document.querySelectorAll("[data-needs]")) {
      if (button.dataset.needs === badge.dataset.stock) button.disabled = units === 0;
    }
  }
}

async function keepStockLive() {
  for (;;) {
    await pause(STOCK_EVERY_MS);
    if (document.hidden) continue;
    // What is shown stays until there is better: stock is checked when it is ordered.
    await showStock().catch(() => online());
  }
}

// --- following an order ---

async function followOrder() {
  let order = document.querySelector("#order[data-watch]");
  while (order) {
    let news;
    try {
      const answer = await fetch(order.dataset.watch, { signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
      if (!answer.ok) throw new Error(answer.statusText);
      news = await answer.json();
    } catch {
      document.getElementById("standing").textContent = "No connection. Your order is safe; this page looks again by itself.";
      await online();
      continue;
    }
    if (news.status === "queued") {
      if (news.words) document.getElementById("standing").textContent = news.words;
      await pause(250);
      continue;
    }
    try {
      const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
      const ended = page.getElementById("order");
      if (!ended) throw new Error("no order on the page");
      order.replaceWith(ended);
      document.title = page.title;
      announce([...ended.querySelectorAll("h1, .lead, .short .what > :first-child, .short .badge")].map((part) => part.textContent.trim()).join(" "));
      order = document.querySelector("#order[data-watch]");
    } catch {
      await online();
    }
  }
}

followOrder();
keepStockLive();
