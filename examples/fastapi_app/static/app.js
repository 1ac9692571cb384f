"use strict";

// A browser opens six connections to a server at most, and an event stream holds one of them as long as it lasts.
// So no more than four tasks are listened to at a time, the oldest first: those are the ones that are worked on.
const STREAMS = 4;
const LARGEST = 2 * 2 ** 20; // bytes; of more, the service takes none
const RETRY = 2000; // milliseconds until a service that is away is asked again
const KEY = "files and figures";
const $ = (selector, root = document) => root.querySelector(selector);
const counts = new Intl.NumberFormat();
const pause = () => new Promise((done) => setTimeout(done, RETRY));

const tasks = []; // {id, name, state, card}, in the order they were added; id is null until the service took it
const waiting = []; // those to be listened to
let listening = 0;

// --- the list, kept in the browser: what became of the tasks, the service knows; what it did not take, only the browser

function kept() {
  return JSON.parse(localStorage.getItem(KEY) ?? "[]");
}

function keep(entry) { // beside what another window has added
  localStorage.setItem(KEY, JSON.stringify([...kept(), entry]));
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
    if (count(state)) parts.push(`${count(state)}\u00a0${label}`); // not to be broken there
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

function away(is) {
  $("#away").hidden = !is;
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
  events.onopen = () => away(false);
  events.onmessage = ({ data }) => {
    const status = JSON.parse(data);
    report(task, status);
    if (status.ready) leave();
  };
  events.addEventListener("problem", ({ data }) => { fail(task, JSON.parse(data).message); leave(); });
  events.onerror = async () => {
    if (events.readyState !== EventSource.CLOSED) return away(true); // a lost connection is opened again by the browser
    const answer = await fetch(`tasks/${task.id}`).catch(() => null); // but not one that was refused: why?
    const known = answer?.ok ? await answer.json() : null;
    const unknown = answer?.status === 404;
    away(!known && !unknown);
    if (unknown) fail(task, "the service knows nothing of it any more");
    else if (known?.ready) report(task, known);
    else {
      await pause();
      waiting.unshift(task);
    }
    leave();
  };
}

// --- sending, one file after another

let sending = 0;

async function send(files) {
  const added = files.sort(([, a], [, b]) => a.localeCompare(b, undefined, { numeric: true })).map(([file, name]) => [file, add(name)]);
  sending += added.length;
  for (const [file, task] of added) {
    try {
      task.id = await post(file, task.name);
      keep({ id: task.id, name: task.name });
      show(task, "queued", "waiting");
      listen(task);
    } catch (error) {
      fail(task, error.message);
      keep({ name: task.name, error: error.message });
    }
    sending -= 1;
  }
}

async function post(file, name) {
  if (file.size > LARGEST) throw new Error(`this is larger than ${LARGEST / 2 ** 20} MiB`);
  const body = await file.arrayBuffer(); // that it cannot be read is not the fault of the service
  for (;;) {
    const answer = await fetch(`files?name=${encodeURIComponent(name)}`, { method: "POST", body }).catch(() => null);
    away(!answer || answer.status === 503);
    if (answer?.ok) return (await answer.json()).task_id;
    if (answer && answer.status !== 503) throw new Error(await why(answer));
    await pause();
  }
}

async function why(answer) {
  const { detail } = await answer.json().catch(() => ({ detail: answer.statusText || `status ${answer.status}` }));
  return detail.message ?? detail[0]?.msg ?? detail;
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
// Files may be dropped anywhere: beside the frame, the browser would leave the page for the file.
for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => { event.preventDefault(); $("#drop").classList.add("over"); });
}
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("#drop").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  $("#drop").classList.remove("over");
  dropped(event.dataTransfer);
});
$("#clear").addEventListener("click", () => { localStorage.removeItem(KEY); location.reload(); });

// What was not sent would be lost with the page.
addEventListener("beforeunload", (event) => { if (sending) event.preventDefault(); });

for (const { id, name, error } of kept()) {
  const task = add(name, id);
  if (error) fail(task, error);
  else listen(task);
}
