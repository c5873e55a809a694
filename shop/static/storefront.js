// The storefront with a script: stock stays live, an order is placed and followed without leaving the page. Without it, the
// same forms and pages work by themselves.
"use strict";

const STOCK_EVERY_MS = 3000;
const ANSWER_WITHIN_MS = 10000;
const AGAIN_AFTER_MS = 2000;
const LOOK_AGAIN_MS = 250;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const online = () => (navigator.onLine ? pause(AGAIN_AFTER_MS) : new Promise((resolve) => addEventListener("online", resolve, { once: true })));

function announce(text) {
  document.getElementById("announcement").textContent = text;
}

// --- placing or cancelling an order: one form, sent until there is an answer; the server does it once ---

const WORDS = {
  places: {
    begun: "Placing your order …",
    offline: "No connection. Your order is kept and is sent again by itself; it stays one order.",
    later: (wait_s) => `Many are ordering at the moment. Yours is kept and is sent again in ${wait_s} s; it stays one order.`,
    paused: (wait_s) => `We take no orders at present. Yours is kept and is sent again in ${wait_s} s; it stays one order.`,
  },
  cancels: {
    begun: "Cancelling your order …",
    offline: "No connection. Your wish is sent again by itself; do not close this page yet.",
    later: (wait_s) => `That is not possible at the moment. Your wish is sent again in ${wait_s} s; do not close this page yet.`,
  },
};
// Too many at once, or somebody on the way to the shop, or behind it, is away.
const ASK_AGAIN = new Set([429, 502, 503, 504]);

function say(form, text) {
  const line = form.querySelector(".progress");
  line.textContent = text;
  line.hidden = !text;
  announce(text);
}

async function sent(form, fields, words) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(form.action, {
        method: "POST", body: fields, headers: { Accept: "application/json" }, signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
      });
      if (answer.ok) return (await answer.json()).href;
    } catch {
      say(form, words.offline);
      await online();
      continue;
    }
    if (!ASK_AGAIN.has(answer.status)) return null;
    const { wait_s = AGAIN_AFTER_MS / 1000, is_paused } = await answer.json().catch(() => ({}));
    say(form, (is_paused ? words.paused : words.later)(wait_s));
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
  const words = button && WORDS[Object.keys(WORDS).find((kind) => kind in button.dataset)];
  if (!words) return;
  event.preventDefault();
  form.dataset.busy = "yes";
  button.setAttribute("aria-busy", "true");
  say(form, words.begun);
  const href = await sent(form, new URLSearchParams(new FormData(form, button)), words);
  if (href) location.assign(href);
  else form.submit();
});

// A page that the browser kept in memory shows old stock and an old key.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

// --- live stock ---

// Servers and proxies take addresses of 8 KB, and one SKU may have 768 bytes in it.
const QUERY_LENGTH = 4000;

function stockQueries(skus) {
  const queries = [];
  for (const sku of skus) {
    const word = `sku=${encodeURIComponent(sku)}`;
    const query = `${queries.at(-1)}&${word}`;
    if (queries.length && query.length <= QUERY_LENGTH) queries[queries.length - 1] = query;
    else queries.push(word);
  }
  return queries;
}

async function showStock() {
  const badges = [...document.querySelectorAll("[data-stock]")];
  if (!badges.length) return;
  const queries = stockQueries(badges.map((badge) => badge.dataset.stock));
  const answers = await Promise.all(queries.map((query) => fetch(`/watch/stock?${query}`)));
  if (!answers.every((answer) => answer.ok)) return;
  const stock = Object.assign({}, ...(await Promise.all(answers.map((answer) => answer.json()))));
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
    if (news.status === order.dataset.state) {
      if (news.words) document.getElementById("standing").textContent = news.words;
      await pause(LOOK_AGAIN_MS);
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
