"use strict";
// The page: its tables, the state in its address, its header and its keys.

const PAGE_FORMAT = 1;
const MAX_ROUNDS_HELD = 4;
let run = null; // the table "overview"

// An element with attributes and children; texts become text, never markup.
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function shortText(text, length = 60) {
  const characters = [...text.slice(0, 2 * length + 2)];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
}

function wholeNumber(value) {
  return value.toLocaleString("en-US");
}

function decimal(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

function percent(fraction) {
  return fraction === null || fraction === undefined ? "–" : `${Math.round(100 * fraction)}%`;
}

function readSetting(name) {
  try {
    return localStorage.getItem(`xdc_tf ${name}`);
  } catch {
    return null;
  }
}

function writeSetting(name, value) {
  try {
    localStorage.setItem(`xdc_tf ${name}`, value);
  } catch {
    // Storage may be refused: then the setting holds until the page is closed.
  }
}

/* Tables: scripts of data/, each of which calls page_data once. */

const scripts = new Map();
const tables = new Map();
const readBlocks = new Map(); // number of a block -> its table, once it is here

function loadScript(address) {
  if (!scripts.has(address)) {
    const loaded = new Promise((resolve, reject) => {
      const fail = () => {
        scripts.delete(address);
        reject(new Error(`${address} cannot be read; is the folder complete?`));
      };
      document.head.append(el("script", { src: address, onload: resolve, onerror: fail }));
    });
    scripts.set(address, loaded);
  }
  return scripts.get(address);
}

// Called by the scripts of data/.
function page_data(name, value) {
  tables.get(name)?.resolve(value);
}

function loadTable(name) {
  if (!tables.has(name)) {
    const table = {};
    const address = `data/${name}.js`;
    table.promise = new Promise((resolve, reject) => {
      table.resolve = resolve;
      loadScript(address).then(
        () => reject(new Error(`${address} holds no table ${name}.`)),
        (error) => {
          tables.delete(name);
          reject(error);
        },
      );
    });
    tables.set(name, table);
    forgetRounds(name);
  }
  return tables.get(name).promise;
}

// Of the tables of rounds, the last few are held.
function forgetRounds(latest) {
  const prefix = latest.replace(/\d+$/, "");
  if (!["round-", "labels-"].includes(prefix)) return;
  const held = [...tables.keys()].filter((name) => name.startsWith(prefix));
  for (const name of held.slice(0, -MAX_ROUNDS_HELD)) {
    tables.delete(name);
    scripts.delete(`data/${name}.js`);
    document.querySelector(`script[src="data/${name}.js"]`)?.remove();
  }
}

const roundDigits = (round) => String(round).padStart(4, "0");
const loadRound = (round) => loadTable(`round-${roundDigits(round)}`);
const loadMedia = () => loadTable("media");

// Clusters by example, of each clustering.
async function loadLabels(round) {
  const labels = await loadTable(`labels-${roundDigits(round)}`);
  for (const [source, clusters] of Object.entries(labels)) {
    if (!(clusters instanceof Int32Array)) labels[source] = Int32Array.from(clusters);
  }
  return labels;
}

async function loadBlock(number) {
  const block = await loadTable(`examples-${number}`);
  readBlocks.set(number, block);
  return block;
}

async function loadExample(example) {
  const number = Math.floor(example / run.examples_per_block);
  const block = readBlocks.get(number) ?? (await loadBlock(number));
  return {
    id: block.ids[example - block.first] ?? "",
    label: block.labels[example - block.first] ?? -1,
  };
}

function labelName(label) {
  return label < 0 ? "" : (run.data.label_names[label] ?? `label ${label}`);
}

/* The state of the page is its address: #view=clusters&round=3&source=audio&cluster=7 */

function readState() {
  const state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const name of ["round", "cluster", "row", "column", "example", "label"]) {
    if (name in state) state[name] = /^\d{1,9}$/.test(state[name]) ? Number(state[name]) : null;
  }
  if (!Object.hasOwn(VIEWS, state.view ?? "")) {
    state.view = Number.isInteger(state.cluster) ? "clusters" : "overview";
  }
  if (!run.shown_rounds.includes(state.round)) state.round = run.shown_rounds.at(-1) ?? null;
  if (!run.sources.includes(state.source)) state.source = run.sources[0] ?? null;
  return state;
}

function linkTo(state) {
  const given = Object.entries(state).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  return `#${new URLSearchParams(given)}`;
}

function goTo(href) {
  location.hash = href;
}

// Changes the address without a step in the history; shows it unless told otherwise.
function replaceState(changes, show = true) {
  history.replaceState(null, "", linkTo({ ...readState(), ...changes }));
  shownHash = location.hash;
  showNavigation(readState());
  if (show) showState();
}

const scrollPositions = new Map();
let shownHash = null;
let shownView = null;
let showing = 0;
let focusNext = ""; // id of what gets the focus when the next state is shown

async function showState() {
  const turn = ++showing;
  const state = readState();
  const main = document.getElementById("main");
  const view = VIEWS[state.view];
  main.setAttribute("aria-busy", "true");
  showNavigation(state);
  let content;
  try {
    const data = await view.load(state);
    if (turn !== showing) return;
    const sameView = shownView === state.view;
    const moved = shownHash !== location.hash;
    const focused =
      focusNext || (main.contains(document.activeElement) ? document.activeElement.id : "");
    focusNext = "";
    closeCharts();
    closeLists();
    hideMapHover();
    content = view.show(state, data).flat();
    main.replaceChildren(...content.filter(Boolean));
    updateLists();
    if (moved)
      window.scrollTo(
        0,
        scrollPositions.get(location.hash) ?? (sameView && !state.cluster ? window.scrollY : 0),
      );
    updateLists();
    const again = focused && document.getElementById(focused);
    if (again) again.focus();
    else if (shownHash !== null && moved) main.focus({ preventScroll: true });
    const heading = main.querySelector("h1")?.textContent ?? view.title;
    document.title = `${shortText(heading, 80)} – ${shortText(run.title, 40)}`;
    if (shownHash !== null) announce(shortText(heading, 80));
    shownView = state.view;
    shownHash = location.hash;
  } catch (error) {
    if (turn !== showing) return;
    main.replaceChildren();
    showError(error);
  }
  main.setAttribute("aria-busy", "false");
}

function showNavigation(state) {
  const items = Object.entries(VIEWS)
    .filter(([, view]) => !view.hidden)
    .map(([name, view]) => {
      const current = name === state.view || (name === "search" && state.view === "video");
      const href = linkTo({ view: name, round: state.round, source: state.source });
      const link = el("a", { href, "aria-current": current ? "page" : null }, view.title);
      return el("li", {}, link);
    });
  const list = document.getElementById("views");
  list.replaceChildren(...items);
  const current = list.querySelector("[aria-current]");
  if (current) list.scrollLeft = current.offsetLeft - (list.clientWidth - current.offsetWidth) / 2;
}

function announce(text) {
  document.getElementById("announcer").textContent = text;
}

function showError(error) {
  const box = el("p", { class: "error", role: "alert" }, error.message);
  document.getElementById("main").prepend(box);
}

/* Header */

const THEMES = ["auto", "light", "dark"];

// On a narrow screen the setting is heard, not seen.
function showSwitch(button, name, setting) {
  button.replaceChildren(name, el("span", { class: "setting" }, `: ${setting}`));
}

function showTheme() {
  const setting = readSetting("theme");
  const theme = THEMES.includes(setting) ? setting : "auto";
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  showSwitch(document.getElementById("theme"), "Theme", theme);
  return theme;
}

function switchTheme() {
  const theme = showTheme();
  writeSetting("theme", THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
  showTheme();
  redrawCharts();
}

/* Keys */

function isTyping(target) {
  return (
    target.matches("input:not([type=checkbox]):not([type=range]), select, textarea") ||
    target.isContentEditable
  );
}

function moveRound(step) {
  const state = readState();
  const index = run.shown_rounds.indexOf(state.round) + step;
  if (index >= 0 && index < run.shown_rounds.length) {
    goTo(linkTo({ ...state, round: run.shown_rounds[index] }));
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (isTyping(event.target) || document.getElementById("help-dialog").open) return;
  const actions = {
    "/": () => {
      const { view, round, source } = readState();
      if (view === "search") document.getElementById("query")?.focus();
      else {
        focusNext = "query";
        goTo(linkTo({ view: "search", round, source }));
      }
    },
    "?": () => document.getElementById("help-dialog").showModal(),
    m: switchSound,
    "[": () => moveRound(-1),
    "]": () => moveRound(1),
    ",": () => document.getElementById("previous-cluster")?.click(),
    ".": () => document.getElementById("next-cluster")?.click(),
  };
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
}

async function start() {
  showTheme();
  clipPlayer.sound = readSetting("sound") !== "off";
  showSound();
  document.getElementById("theme").addEventListener("click", switchTheme);
  document.getElementById("sound").addEventListener("click", switchSound);
  document
    .getElementById("help")
    .addEventListener("click", () => document.getElementById("help-dialog").showModal());
  document
    .getElementById("skip")
    .addEventListener("click", () => document.getElementById("main").focus());
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
  try {
    run = await loadTable("overview");
    if (run.format !== PAGE_FORMAT) {
      throw new Error(
        `The tables have format ${run.format}, this page reads format ${PAGE_FORMAT}; write it anew by one version.`,
      );
    }
  } catch (error) {
    document.getElementById("main").replaceChildren();
    showError(error);
    return;
  }
  document.getElementById("run-title").textContent = run.title;
  document.getElementById("run-method").textContent = run.method;
  readStoredNames();
  document.addEventListener("keydown", onKey);
  for (const name of ["click", "keyup"]) document.addEventListener(name, showSound);
  window.addEventListener("hashchange", showState);
  window.addEventListener(
    "scroll",
    () => shownHash === location.hash && scrollPositions.set(shownHash, window.scrollY),
    { passive: true },
  );
  window.addEventListener("storage", ({ key }) => {
    if (key !== namesStorageKey()) return;
    readStoredNames();
    showState();
  });
  await showState();
}

start();
