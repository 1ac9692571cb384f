"use strict";

// A browser opens six connections to a server at most, and an event stream holds one of them as long as it lasts.
// So no more than four tasks are listened to at a time, the oldest first: those are the ones that are worked on.
const STREAMS = 4;
const KEY = "files and figures";
const $ = (selector, root = document) => root.querySelector(selector);
const counts = new Intl.NumberFormat();

const tasks = []; // {id, name, state, card}, in the order they were added; id is null until the service took it
const waiting = []; // those to be listened to
let listening = 0;

// --- the list, kept in the browser: what became of the tasks, the service knows

function save() {
  localStorage.setItem(KEY, JSON.stringify(tasks.filter((task) => task.id).map(({ id, name }) => ({ id, name }))));
}

function add(name, id = null) {
  const card = $("#task").content.firstElementChild.cloneNode(true);
  const task = { id, name, card };
  $(".name", card).textContent = name;
  $("progress", card).setAttribute("aria-label", `Progress of ${name}`);
  tasks.push(task);
  $("#tasks").append(card);
  show(task, "queued", id ? "waiting" : "sending");
  return task;
}

function show(task, state, label, percent = 0) {
  task.state = state;
  task.card.dataset.state = state;
  $(".state", task.card).textContent = label;
  $("progress", task.card).value = percent;
  summarize();
}

function summarize() {
  const count = (state) => tasks.filter((task) => task.state === state).length;
  const parts = [`${tasks.length} ${tasks.length === 1 ? "file" : "files"}`];
  for (const [state, label] of [["working", "in work"], ["done", "done"], ["failed", "failed"]]) {
    if (count(state)) parts.push(`${count(state)} ${label}`);
  }
  $("#summary").textContent = parts.join(" · ");
  $("#list").hidden = !tasks.length;
}

function fail(task, message) {
  show(task, "failed", "failed", 100);
  const error = $(".error", task.card);
  error.textContent = message;
  error.hidden = false;
}

function report(task, { status, ready, result, error }) {
  if (error) {
    fail(task, error.message);
  } else if (ready) {
    show(task, "done", "done", 100);
    for (const name of ["lines", "words", "different"]) $(`.${name}`, task.card).textContent = counts.format(result[name]);
    $(".figures", task.card).hidden = false;
    const words = result.common.map(([word, times]) => {
      const chip = document.createElement("span");
      chip.textContent = `${word} ${counts.format(times)}`;
      return chip;
    });
    $(".common", task.card).replaceChildren(...words);
    $(".common", task.card).hidden = !words.length;
  } else if (status === "PROGRESS") {
    show(task, "working", `${result.percent} %`, result.percent);
  } else {
    show(task, "queued", status === "STARTED" ? "starting" : "waiting");
  }
}

// --- listening

function listen(task) {
  if (task) waiting.push(task);
  while (listening < STREAMS && waiting.length) follow(waiting.shift());
}

function follow(task) {
  listening += 1;
  const events = new EventSource(`tasks/${task.id}/events`);
  const leave = () => { events.close(); listening -= 1; listen(); };
  events.onmessage = ({ data }) => {
    const status = JSON.parse(data);
    report(task, status);
    if (status.ready) leave();
  };
  events.addEventListener("problem", ({ data }) => { fail(task, JSON.parse(data).message); leave(); });
  events.onerror = () => { // a lost connection is opened again by the browser; a refusal is not
    if (events.readyState === EventSource.CLOSED) { fail(task, "the service knows nothing of it any more"); leave(); }
  };
}

// --- sending, one file after another

let sending = 0;

async function send(files) {
  const added = files.sort(([, a], [, b]) => a.localeCompare(b, undefined, { numeric: true })).map(([file, name]) => [file, add(name)]);
  sending += added.length;
  for (const [file, task] of added) {
    try {
      const answer = await fetch(`files?name=${encodeURIComponent(task.name)}`, { method: "POST", body: file });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.detail.message ?? body.detail);
      task.id = body.task_id;
      save();
      listen(task);
    } catch (error) {
      fail(task, error.message);
    }
    sending -= 1;
  }
}

async function* filesIn(entry, path = "") {
  if (entry.isFile) {
    yield [await new Promise((done, failed) => entry.file(done, failed)), path + entry.name];
  } else {
    const reader = entry.createReader();
    for (;;) { // a directory is read a hundred entries at a time
      const entries = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!entries.length) return;
      for (const each of entries) yield* filesIn(each, `${path}${entry.name}/`);
    }
  }
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return send([...transfer.files].map((file) => [file, file.name]));
  const files = [];
  for (const entry of entries) for await (const file of filesIn(entry)) files.push(file);
  return send(files);
}

// --- the page

for (const [button, input] of [["#choose-files", "#files"], ["#choose-folder", "#folder"]]) {
  $(button).addEventListener("click", () => $(input).click());
  $(input).addEventListener("change", ({ target }) => {
    send([...target.files].map((file) => [file, file.webkitRelativePath || file.name]));
    target.value = "";
  });
}
const drop = $("#drop");
for (const type of ["dragenter", "dragover"]) {
  drop.addEventListener(type, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const type of ["dragleave", "drop"]) drop.addEventListener(type, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => { event.preventDefault(); dropped(event.dataTransfer); });
$("#clear").addEventListener("click", () => { localStorage.removeItem(KEY); location.reload(); });

// What was not sent would be lost with the page.
addEventListener("beforeunload", (event) => { if (sending) event.preventDefault(); });

for (const { id, name } of JSON.parse(localStorage.getItem(KEY) ?? "[]")) listen(add(name, id));
