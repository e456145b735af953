"use strict";
// Views that compare: rounds, modalities, and examples on a map.

/* Rounds */

function showRounds(state, data) {
  if (data === null) return noRounds();
  const { source, round } = state;
  const flows = data.round.flows?.[source];
  const section = el(
    "section",
    {},
    el("h2", {}, flows ? `From round ${flows.from} to round ${round}` : `Round ${round}`),
  );
  if (!flows)
    section.append(
      el(
        "p",
        {},
        "The first round: nothing flows into it. Move the slider to a later one.",
      ),
    );
  else section.append(...flowElements(flows, state));
  return [
    el("h1", {}, `${source} clusters round by round`),
    controls(roundSlider(state), sourceSwitch(state)),
    section,
    el(
      "section",
      {},
      el("h2", {}, "Normalised mutual information"),
      curvesChart(nmiCurves(), {
        text: "NMI by round",
        yTitle: "NMI",
        range: [0, 1.03],
        marked: round,
      }),
    ),
    el(
      "section",
      {},
      el("h2", {}, "Effective clusters"),
      curvesChart(effectiveCurves(), {
        text: "Effective clusters by round",
        yTitle: "clusters",
        marked: round,
      }),
    ),
  ];
}

function flowElements(flows, { source, round, cluster }) {
  const into = [...new Set(flows.counts.map(([, to]) => to))].sort((a, b) => a - b);
  const chosen = into.includes(cluster) ? cluster : "";
  const counts = flows.counts
    .filter(([, to]) => chosen === "" || to === chosen)
    .sort((a, b) => b[2] - a[2]);
  const total = counts.reduce((sum, [, , count]) => sum + count, 0);
  const shown = counts.slice(0, MAX_FLOWS).reduce((sum, [, , count]) => sum + count, 0);
  const open = (ofRound) => (cluster) => {
    if (run.shown_rounds.includes(ofRound))
      goTo(linkTo({ view: "clusters", round: ofRound, source, cluster }));
  };
  const notes = ["A click on a cluster opens it."];
  if (!run.shown_rounds.includes(flows.from)) {
    notes.push(`Round ${flows.from} is not shown: its clusters have no page.`);
  }
  if (shown < total) {
    notes.push(`The ${MAX_FLOWS} largest flows: ${percent(shown / total)} of the videos.`);
  }
  const chart = flowsChart(counts, {
    titleOfOld: (cluster) => clusterTitle(source, flows.from, cluster),
    titleOfNew: (cluster) => clusterTitle(source, round, cluster),
    openOld: open(flows.from),
    openNew: open(round),
    text: `Flows of videos from the clusters of round ${flows.from} to those of round ${round}; the table below has them as numbers`,
  });
  const rows = counts
    .slice(0, MAX_FLOWS)
    .map(([from, to, count]) => [
      clusterLink(source, flows.from, from),
      clusterLink(source, round, to),
      wholeNumber(count),
    ]);
  const options = into.map((number) => [number, clusterTitle(source, round, number)]);
  return [
    controls(
      selectElement("flows-into", "Flows into", [["", "all clusters"], ...options], chosen, (to) =>
        replaceState({ cluster: to }),
      ),
    ),
    el("p", { class: "muted" }, notes.join(" ")),
    chart,
    el(
      "details",
      {},
      el("summary", {}, "As a table"),
      tableElement(
        "Flows, the largest first",
        [
          { title: `round ${flows.from}` },
          { title: `round ${round}` },
          { title: "videos", number: true },
        ],
        rows,
      ),
    ),
  ];
}

function curveOf(name, source, valueOf, dash = false) {
  const points = run.rounds.filter(
    ({ clusterings }) => clusterings[source] && Number.isFinite(valueOf(clusterings[source])),
  );
  return {
    name,
    dash,
    x: points.map(({ round }) => round),
    y: points.map(({ clusterings }) => valueOf(clusterings[source])),
  };
}

function nmiCurves() {
  const curves = [];
  run.sources.forEach((source, index) => {
    curves.push(curveOf(`${source} and labels`, source, ({ nmi_labels }) => nmi_labels));
    curves.push(
      curveOf(`${source} and its round before`, source, ({ nmi_previous }) => nmi_previous),
    );
    for (const other of run.sources.slice(index + 1)) {
      curves.push(curveOf(`${source} and ${other}`, source, ({ nmi }) => nmi?.[other]));
    }
  });
  return curves.filter(({ x }) => x.length > 0);
}

function effectiveCurves() {
  return run.sources.flatMap((source) => [
    curveOf(source, source, (health) => health.effective_clusters),
    curveOf(`${source}: number of clusters`, source, (health) => health.num_clusters, true),
  ]);
}

/* Across */

async function loadAcross(state) {
  if (state.round === null) return null;
  const [round, media, labels] = await Promise.all([
    loadRound(state.round),
    loadMedia(),
    loadLabels(state.round),
  ]);
  return { round, media, labels };
}

function sumBy(counts, keyOf) {
  const sums = new Map();
  for (const entry of counts) sums.set(keyOf(entry), (sums.get(keyOf(entry)) ?? 0) + entry[2]);
  return sums;
}

// Rows by size; each column beside the row that it shares most with.
function crossOrder({ counts }, byNumber) {
  const rowSizes = sumBy(counts, ([row]) => row);
  const columnSizes = sumBy(counts, ([, column]) => column);
  const rows = [...rowSizes.keys()].sort((a, b) =>
    byNumber ? a - b : rowSizes.get(b) - rowSizes.get(a),
  );
  const place = new Map(rows.map((row, index) => [row, index]));
  const best = new Map();
  for (const [row, column, count] of counts) {
    if (count > (best.get(column)?.[1] ?? 0)) best.set(column, [row, count]);
  }
  const columns = [...columnSizes.keys()].sort((a, b) =>
    byNumber
      ? a - b
      : place.get(best.get(a)[0]) - place.get(best.get(b)[0]) ||
        columnSizes.get(b) - columnSizes.get(a),
  );
  return { rows, columns, rowSizes };
}

function showAcross(state, data) {
  if (data === null) return noRounds();
  const { cross } = data.round;
  if (!cross)
    return [
      el("h1", {}, "Across modalities"),
      controls(roundSlider(state)),
      el("p", {}, "The run has a single clustering: there is nothing to compare."),
    ];
  const { round } = state;
  const { rows, columns, rowSizes } = crossOrder(cross, state.cells === "number");
  const byRow = state.unit !== "count";
  const rowPlace = new Map(rows.map((row, index) => [row, index]));
  const columnPlace = new Map(columns.map((column, index) => [column, index]));
  const values = rows.map(() => new Array(columns.length).fill(0));
  for (const [row, column, count] of cross.counts) {
    values[rowPlace.get(row)][columnPlace.get(column)] = byRow ? count / rowSizes.get(row) : count;
  }
  const titleOfRow = (row) => clusterTitle(cross.rows, round, row);
  const titleOfColumn = (column) => clusterTitle(cross.columns, round, column);
  const open = (row, column) => {
    replaceState({ row, column });
    requestAnimationFrame(() => document.getElementById("cell")?.scrollIntoView());
  };
  const largest = [...cross.counts].sort((a, b) => b[2] - a[2]).slice(0, 200);
  const cellRows = largest.map(([row, column, count]) => [
    clusterLink(cross.rows, round, row),
    clusterLink(cross.columns, round, column),
    el("a", { href: linkTo({ ...state, row, column }) }, wholeNumber(count)),
  ]);
  const disagreeing = exampleList(cross.disagreeing, {
    label: "Disagreeing videos",
    media: data.media,
    state,
    factsOf: (example) => clusterFacts(data.labels, round, example),
  });
  return [
    el("h1", {}, `${cross.rows} clusters by ${cross.columns} clusters, round ${round}`),
    controls(
      roundSlider(state),
      selectElement(
        "unit",
        "Colour",
        [
          ["fraction", `fraction of the ${cross.rows} cluster`],
          ["count", "number of videos"],
        ],
        state.unit ?? "fraction",
        (unit) => replaceState({ unit }),
      ),
      selectElement(
        "cells",
        "Order",
        [
          ["match", "matching clusters together"],
          ["number", "by number"],
        ],
        state.cells ?? "match",
        (cells) => replaceState({ cells }),
      ),
      selectElement(
        "row",
        `${cross.rows} cluster`,
        [["", "–"], ...rows.map((row) => [row, titleOfRow(row)])],
        state.row ?? "",
        (row) => replaceState({ row }),
      ),
      selectElement(
        "column",
        `${cross.columns} cluster`,
        [["", "–"], ...columns.map((column) => [column, titleOfColumn(column)])],
        state.column ?? "",
        (column) => replaceState({ column }),
      ),
    ),
    el("p", { class: "muted" }, "A click on a cell lists its videos."),
    crossChart({
      rows,
      columns,
      values,
      rowTitle: cross.rows,
      columnTitle: cross.columns,
      titleOfRow,
      titleOfColumn,
      unit: byRow ? "fraction" : "videos",
      text: `Videos by ${cross.rows} and ${cross.columns} cluster; the table below has the largest cells as numbers`,
      open,
    }),
    cellSection(state, data, cross),
    el(
      "details",
      {},
      el("summary", {}, "Largest cells as a table"),
      tableElement(
        "Cells, the largest first",
        [{ title: cross.rows }, { title: cross.columns }, { title: "videos", number: true }],
        cellRows,
      ),
    ),
    el("section", {}, el("h2", {}, "Where the modalities disagree most"), disagreeing.element),
  ];
}

function cellSection(state, { media, labels }, cross) {
  const { row, column, round } = state;
  if (!Number.isInteger(row) || !Number.isInteger(column)) return null;
  const chosen = cross.examples[`${row},${column}`] ?? [];
  const columnLabels = labels[cross.columns];
  const others = examplesWhere(labels[cross.rows], row, media).filter(
    (example) => columnLabels[example] === column && !chosen.includes(example),
  );
  const examples = [...chosen, ...others];
  const list = exampleList(examples, {
    label: "Videos of the cell",
    media,
    state,
    empty: "No video is in both.",
    factsOf: (example) => clusterFacts(labels, round, example),
  });
  return el(
    "section",
    { id: "cell" },
    el(
      "h2",
      {},
      `${wholeNumber(examples.length)} videos: `,
      clusterLink(cross.rows, round, row),
      " and ",
      clusterLink(cross.columns, round, column),
    ),
    list.element,
  );
}

/* Map */

async function loadMap(state) {
  const source = Object.hasOwn(run.maps, state.source) ? state.source : Object.keys(run.maps)[0];
  if (source === undefined) return null;
  const [points, media, labels] = await Promise.all([
    loadTable(`map-${source}`),
    loadMedia(),
    state.round === null ? {} : loadLabels(state.round),
  ]);
  return { source, points, media, labels };
}

async function labelsOfExamples(examples) {
  const blocks = [
    ...new Set(examples.map((example) => Math.floor(example / run.examples_per_block))),
  ];
  await Promise.all(blocks.map(loadBlock));
  return examples.map((example) => {
    const block = readBlocks.get(Math.floor(example / run.examples_per_block));
    return block.labels[example - block.first] ?? -1;
  });
}

function hideMapHover() {
  document.getElementById("map-hover")?.remove();
}

async function showMapHover(example, facts, media, event) {
  hideMapHover();
  const id = el("bdi", {}, `#${example}`);
  const label = el("bdi", {});
  const box = el(
    "div",
    { id: "map-hover", "aria-hidden": "true" },
    media[example]?.poster ? pictureElement(media[example]) : null,
    el("p", { class: "line" }, id),
    el("p", { class: "line" }, label),
    el("p", { class: "line muted" }, facts),
  );
  const { clientX = 0, clientY = 0 } = event ?? {};
  box.style.left = `${Math.max(4, Math.min(clientX + 14, window.innerWidth - 214))}px`;
  box.style.top = `${clientY + 220 > window.innerHeight ? Math.max(4, clientY - 220) : clientY + 14}px`;
  document.body.append(box);
  const known = await loadExample(example);
  id.textContent = known.id || `#${example}`;
  label.textContent = labelName(known.label);
}

function showMap(state, data) {
  if (data === null)
    return [el("h1", {}, "Map"), el("p", {}, "The page was written without maps.")];
  const { source, points, media, labels } = data;
  const { round } = state;
  const colours = [
    ...run.sources.map((name) => [`clusters of ${name}`, name]),
    ...(run.data.label_names.length > 0 ? [["labels", "labels"]] : []),
  ];
  const colour = colours.some(([, name]) => name === state.colour) ? state.colour : source;
  const place = el("div", {});
  const listed = el("section", { id: "selection" });
  const heading = el("h2", {}, "Selected videos");
  const list = exampleList([], {
    label: "Selected videos",
    media,
    state,
    empty: "Draw a loop around points to list their videos.",
    factsOf: (example) => clusterFacts(labels, round, example),
  });
  listed.append(heading, list.element);
  const titleOf = (group) =>
    group < 0
      ? "none"
      : colour === "labels"
        ? labelName(group)
        : clusterTitle(colour, round, group);
  const draw = (groups) => {
    const chart = mapChart(points, {
      groups,
      titleOfGroup: titleOf,
      text: `Map of the ${source} features, coloured by ${colour}`,
      hover: (example, event) => {
        if (example === null) hideMapHover();
        else
          showMapHover(
            example,
            clusterFacts(labels, round, example)
              .map((text) => shortText(text))
              .join(" · "),
            media,
            event,
          ).catch(showError);
      },
      select: (examples) => {
        heading.textContent =
          examples.length > 0
            ? `${wholeNumber(examples.length)} selected videos`
            : "Selected videos";
        list.setItems(mediaFirst(examples, media));
        announce(heading.textContent);
      },
      open: (example) => goTo(linkTo({ view: "video", round, source, example })),
    });
    place.replaceChildren(chart.element, chart.note ? el("p", { class: "muted" }, chart.note) : "");
  };
  if (colour === "labels")
    labelsOfExamples(points.examples)
      .then((groups) => place.isConnected && draw(groups))
      .catch(showError);
  else draw(points.examples.map((example) => labels[colour]?.[example] ?? -1));
  const { sample, method } = run.maps[source];
  return [
    el("h1", {}, `Map of the ${source} features`),
    controls(
      sourceSwitch({ ...state, source }, "Features"),
      roundSlider(state),
      selectElement(
        "colour",
        "Colour",
        colours.map(([text, name]) => [name, text]),
        colour,
        (name) => replaceState({ colour: name }),
      ),
    ),
    el(
      "p",
      { class: "muted" },
      `${wholeNumber(sample)} of ${wholeNumber(run.data.num_examples)} videos, features of the last round; ${method}. Lasso: list; wheel: zoom; click: open.`,
    ),
    place,
    listed,
  ];
}
