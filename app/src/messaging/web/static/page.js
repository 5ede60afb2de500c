// Sends the forms and shows what becomes of them, without loading the page anew. All HTML comes from the server, from
// the templates that also make the page without this script.
//
// What it costs in requests: nothing while nothing of this visitor's is under way, or the tab is hidden. A task costs its
// POST and the polls until it has ended: one for what takes less than 0.5 s, three for 2 s (after 0.5, 1.25 and 2.4 s).
"use strict";

const FIRST = 500;
const GROWTH = 1.5;
const LONGEST = 10000;
// A mail may wait for a day: after some minutes, once in two is enough
const PATIENCE = 300000;
const RARELY = 120000;

const notice = document.getElementById("notice");
const regions = new Map(
  Array.from(document.querySelectorAll("[data-region]"), (element) => [element.dataset.region, element]),
);
const shown = new Map();
const over = new Map(
  Array.from(document.querySelectorAll("[data-task]"), (row) => [row.dataset.task, "over" in row.dataset]),
);

let unfinished = "unfinished" in regions.get("tasks").dataset;
let wait = FIRST;
let since = Date.now();
let timer = 0;
let sending = Promise.resolve();
let sends = 0;
let lost = false;
// An answer that was overtaken by a later one is old news
let asked = 0;
let answered = 0;

function tell(text, kind = "") {
  notice.textContent = text;
  notice.dataset.kind = kind;
}

function show(live, turn) {
  if (turn < answered) return;
  answered = turn;
  for (const [name, html] of Object.entries(live.regions)) {
    if (shown.get(name) === html) continue;
    shown.set(name, html);
    const region = regions.get(name);
    const focused = region.contains(document.activeElement) ? document.activeElement.id : "";
    region.innerHTML = html;
    if (focused) document.getElementById(focused)?.focus();
  }
  const ended = live.tasks.filter((task) => task.over && over.get(task.task_id) === false);
  if (ended.length) tell(ended.map((task) => task.says).join(" "), ended.some((task) => task.state === "failed") ? "error" : "");
  for (const task of live.tasks) over.set(task.task_id, task.over);
  unfinished = live.unfinished;
}

function schedule() {
  clearTimeout(timer);
  if (!unfinished || document.hidden || sends) return;
  timer = setTimeout(poll, wait);
  wait = Math.min(wait * GROWTH, Date.now() - since > PATIENCE ? RARELY : LONGEST);
}

async function poll() {
  clearTimeout(timer);
  if (sends) return;
  const turn = ++asked;
  try {
    const response = await fetch("/recent", { headers: { Accept: "application/json" } });
    if (!response.ok) throw new Error(response.statusText);
    const live = await response.json();
    if (lost) tell("");
    lost = false;
    show(live, turn);
  } catch {
    lost = true;
    tell(unfinished ? "The service does not answer just now. Trying again." : "The service does not answer just now.", "error");
  }
  schedule();
}

function mark(form, errors) {
  for (const field of form.querySelectorAll("input:not([type=hidden]), textarea")) {
    const error = errors.find((each) => each.field === field.name);
    document.getElementById(`${field.id}-error`).textContent = error ? error.detail : "";
    field.toggleAttribute("aria-invalid", false);
    if (error) field.setAttribute("aria-invalid", "true");
  }
  const first = form.querySelector("[aria-invalid]");
  first?.closest("details")?.setAttribute("open", "");
  first?.focus();
}

// What became of an earlier one is no answer to this one
function forget(form) {
  const outcome = form.closest(".card").querySelector("[data-region]");
  outcome.replaceChildren();
  shown.delete(outcome.dataset.region);
}

async function send(form) {
  const turn = ++asked;
  try {
    const response = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "application/json" },
      body: new URLSearchParams(new FormData(form)),
    });
    const answer = await response.json();
    mark(form, answer.errors ?? []);
    if (response.ok) {
      tell(answer.notice);
      // It may have ended before its own answer
      over.set(answer.task_id, false);
      // The next one is another task; after an error the same key makes it safe to send again
      form.elements.key.value = answer.key;
      show(answer, turn);
    } else {
      if (!answer.errors) forget(form);
      const id = answer.task_id ? ` Its id is ${answer.task_id}.` : "";
      tell(`${answer.detail}${id}${answer.errors ? "" : " What you typed is still here."}`, "error");
    }
  } catch {
    forget(form);
    tell("The service does not answer just now. What you typed is still here.", "error");
  }
}

for (const form of document.querySelectorAll("form")) {
  const button = form.querySelector("button");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true";
    clearTimeout(timer);
    sends += 1;
    // One after the other: each answer brings a cookie with all ids, and must not undo the one before
    sending = sending.then(() => send(form)).then(() => {
      button.ariaDisabled = null;
      sends -= 1;
      wait = FIRST;
      since = Date.now();
      schedule();
    });
  });
}

document.querySelector(".refresh").addEventListener("click", (event) => {
  event.preventDefault();
  wait = FIRST;
  poll();
});

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden || !unfinished) return;
  wait = FIRST;
  poll();
});

schedule();
