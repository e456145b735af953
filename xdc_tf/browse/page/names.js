"use strict";
// Names of clusters: kept in the browser, exported and imported as CSV.

const NAME_COLUMNS = ["source", "round", "cluster", "name", "junk", "merged_into"];
const MAX_NAME_LENGTH = 200;

const clusterNames = {
  entries: new Map(), // "source round cluster" -> {source, round, cluster, name, junk, mergedInto}
  stored: true, // whether the browser keeps them
};

// Names belong to a run: its title, method, records and configuration, seed included.
function namesStorageKey() {
  const { title, method, config, data } = run;
  const identity = JSON.stringify([title, method, data.records, config]);
  let hash = 0n;
  for (const character of identity) {
    hash = BigInt.asUintN(64, hash * 1099511628211n + BigInt(character.codePointAt(0)));
  }
  return `xdc_tf names ${hash.toString(16)}`;
}

function nameKey(source, round, cluster) {
  return `${source} ${round} ${cluster}`;
}

function readStoredNames() {
  try {
    const text = localStorage.getItem(namesStorageKey());
    const entries = text === null ? [] : JSON.parse(text);
    clusterNames.entries = new Map(
      entries.map((entry) => [nameKey(entry.source, entry.round, entry.cluster), entry]),
    );
  } catch {
    clusterNames.stored = false;
  }
}

function storeNames() {
  try {
    const text = JSON.stringify([...clusterNames.entries.values()]);
    localStorage.setItem(namesStorageKey(), text);
    clusterNames.stored = true;
  } catch {
    clusterNames.stored = false;
  }
}

function clusterEntry(source, round, cluster) {
  return (
    clusterNames.entries.get(nameKey(source, round, cluster)) ?? {
      source,
      round,
      cluster,
      name: "",
      junk: false,
      mergedInto: null,
    }
  );
}

function isEmptyEntry(entry) {
  return entry.name === "" && !entry.junk && entry.mergedInto === null;
}

// The cluster that merges lead to; null if they lead back to where they began.
function mergeTarget(source, round, cluster, entries = clusterNames.entries) {
  const passed = new Set();
  let target = cluster;
  for (;;) {
    if (passed.has(target)) return null;
    passed.add(target);
    const next = entries.get(nameKey(source, round, target))?.mergedInto ?? null;
    if (next === null) return target;
    target = next;
  }
}

// Changes an entry and stores it; an error's message says why it cannot be.
function changeEntry(source, round, cluster, changes) {
  const entry = { ...clusterEntry(source, round, cluster), ...changes };
  const entries = new Map(clusterNames.entries);
  const key = nameKey(source, round, cluster);
  if (isEmptyEntry(entry)) entries.delete(key);
  else entries.set(key, entry);
  if (mergeTarget(source, round, cluster, entries) === null) {
    throw new Error(`Cluster ${entry.mergedInto} is merged into cluster ${cluster} already.`);
  }
  clusterNames.entries = entries;
  storeNames();
}

// "audio 7", or its name.
function clusterTitle(source, round, cluster) {
  return clusterEntry(source, round, cluster).name || `${source} ${cluster}`;
}

function sortedEntries() {
  return [...clusterNames.entries.values()].sort(
    (a, b) => a.source.localeCompare(b.source) || a.round - b.round || a.cluster - b.cluster,
  );
}

function csvCell(value) {
  const text = String(value);
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function namesCsv() {
  const rows = sortedEntries().map((entry) => [
    entry.source,
    entry.round,
    entry.cluster,
    entry.name,
    entry.junk ? 1 : 0,
    entry.mergedInto ?? "",
  ]);
  return [NAME_COLUMNS, ...rows].map((row) => `${row.map(csvCell).join(",")}\n`).join("");
}

// Rows of cells; quoted cells may hold commas, quotes and line ends.
function parseCsv(text) {
  const rows = [];
  const pattern = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\n|\r|$)/y;
  let row = [];
  pattern.lastIndex = text.startsWith("\uFEFF") ? 1 : 0;
  while (pattern.lastIndex < text.length) {
    const match = pattern.exec(text);
    if (match === null) throw new Error(`Row ${rows.length + 1} is no CSV.`);
    row.push(match[1] === undefined ? match[2] : match[1].replaceAll('""', '"'));
    if (match[3] === ",") {
      if (pattern.lastIndex === text.length) row.push("");
      else continue;
    }
    rows.push(row);
    row = [];
  }
  if (row.length > 0) rows.push(row);
  return rows.filter((cells) => cells.length > 1 || cells[0] !== "");
}

function readWholeNumber(text, column, line) {
  if (!/^\d{1,9}$/.test(text)) {
    throw new Error(
      `Row ${line}: ${column} is ${shortText(JSON.stringify(text))}, not a whole number.`,
    );
  }
  return Number(text);
}

// Entries of a CSV file; an error's message names the row that is at fault.
function parseNames(text) {
  const [header, ...rows] = parseCsv(text);
  const missing = NAME_COLUMNS.filter((column) => !header?.includes(column));
  if (missing.length > 0) {
    throw new Error(`The file has no column ${missing.join(", ")}.`);
  }
  const entries = new Map();
  rows.forEach((cells, index) => {
    const line = index + 2;
    const cell = (column) => cells[header.indexOf(column)] ?? "";
    const source = cell("source");
    if (!run.sources.includes(source)) {
      throw new Error(
        `Row ${line}: this run has no clustering ${shortText(JSON.stringify(source))}.`,
      );
    }
    const junk = cell("junk");
    if (!["", "0", "1"].includes(junk)) {
      throw new Error(`Row ${line}: junk is ${shortText(JSON.stringify(junk))}, not 0 or 1.`);
    }
    const merged = cell("merged_into");
    const entry = {
      source,
      round: readWholeNumber(cell("round"), "round", line),
      cluster: readWholeNumber(cell("cluster"), "cluster", line),
      name: cell("name").slice(0, MAX_NAME_LENGTH),
      junk: junk === "1",
      mergedInto: merged === "" ? null : readWholeNumber(merged, "merged_into", line),
    };
    const key = nameKey(source, entry.round, entry.cluster);
    if (entries.has(key)) throw new Error(`Row ${line}: ${key} comes twice.`);
    if (!isEmptyEntry(entry)) entries.set(key, entry);
  });
  for (const { source, round, cluster } of entries.values()) {
    if (mergeTarget(source, round, cluster, entries) === null) {
      throw new Error(`${source} ${cluster} of round ${round} is merged in a circle.`);
    }
  }
  return entries;
}

// Entries of the file replace those of the same clusters. Returns their number.
function importNames(text) {
  const imported = parseNames(text);
  const entries = new Map([...clusterNames.entries, ...imported]);
  for (const { source, round, cluster } of entries.values()) {
    if (mergeTarget(source, round, cluster, entries) === null) {
      throw new Error(
        `${source} ${cluster} of round ${round} would be merged in a circle with the names that are here.`,
      );
    }
  }
  clusterNames.entries = entries;
  storeNames();
  return imported.size;
}

function downloadNames() {
  const address = URL.createObjectURL(new Blob([namesCsv()], { type: "text/csv" }));
  const link = el("a", { href: address, download: "cluster_names.csv" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
