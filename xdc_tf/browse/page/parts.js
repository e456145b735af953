"use strict";
// Parts of several views: tables, controls, bars, links to clusters.

function tableElement(caption, columns, rows) {
  const cell = (value, column) =>
    el(
      "td",
      { class: column.number ? "number" : null },
      value instanceof Node ? value : el("bdi", {}, String(value)),
    );
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el(
      "table",
      {},
      el("caption", {}, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          columns.map((column) =>
            el("th", { scope: "col", class: column.number ? "number" : null }, column.title),
          ),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el(
            "tr",
            {},
            row.map((value, index) => cell(value, columns[index])),
          ),
        ),
      ),
    ),
  );
}

function factsElement(facts) {
  const rows = facts.map(([name, value]) => [
    el("dt", {}, name),
    el("dd", {}, value instanceof Node ? value : el("bdi", {}, String(value))),
  ]);
  return el("dl", { class: "facts-list" }, rows.flat());
}

function selectElement(id, label, options, value, onChange) {
  const select = el("select", { id, onchange: () => onChange(select.value) });
  for (const [key, text] of options)
    select.append(el("option", { value: key }, shortText(String(text))));
  select.value = String(value);
  return el("label", { class: "control" }, el("span", {}, label), select);
}

function roundSlider(state) {
  const rounds = run.shown_rounds;
  const index = rounds.indexOf(state.round);
  const shown = el("span", {}, `${state.round}`);
  const slider = el("input", {
    id: "round",
    type: "range",
    min: 0,
    max: rounds.length - 1,
    step: 1,
    value: index,
    disabled: rounds.length < 2,
    "aria-valuetext": `round ${state.round}`,
    oninput: () => {
      shown.textContent = rounds[slider.value];
      slider.setAttribute("aria-valuetext", `round ${rounds[slider.value]}`);
    },
    onchange: () => goTo(linkTo({ ...readState(), round: rounds[slider.value] })),
  });
  return el("label", { class: "control" }, el("span", {}, "Round ", shown), slider);
}

function sourceSwitch(state, label = "Clustering") {
  const links = run.sources.map((source) =>
    el(
      "a",
      {
        href: linkTo({ ...state, source, cluster: null }),
        "aria-current": source === state.source ? "true" : null,
        id: `source-${source}`,
      },
      source,
    ),
  );
  return el(
    "div",
    { class: "control" },
    el("span", {}, label),
    el("span", { class: "segmented", role: "group", "aria-label": label }, links),
  );
}

function controls(...parts) {
  return el("div", { class: "controls" }, ...parts);
}

// Horizontal bars with their texts; entries: [text, count, href or null].
function barsElement(entries, total) {
  const most = Math.max(1, ...entries.map(([, count]) => count));
  return el(
    "ol",
    { class: "bars" },
    entries.map(([text, count, href]) => {
      const bar = el("span", { class: "bar-fill" });
      bar.style.width = `${(100 * count) / most}%`;
      const title = el("bdi", { title: shortText(text, 300) }, shortText(text, 120));
      const figure = total
        ? `${wholeNumber(count)} (${percent(count / total)})`
        : wholeNumber(count);
      return el(
        "li",
        {},
        el("span", { class: "bar-title" }, href ? el("a", { href }, title) : title),
        el("span", { class: "bar-track" }, bar),
        el("span", { class: "bar-count" }, figure),
      );
    }),
  );
}

function swatch(cluster) {
  const element = el("span", { class: "swatch" });
  element.style.background = colourOf(cluster);
  return element;
}

function clusterLink(source, round, cluster) {
  const href = linkTo({ view: "clusters", round, source, cluster });
  const text = el("bdi", {}, clusterTitle(source, round, cluster));
  return run.shown_rounds.includes(round)
    ? el("a", { href }, swatch(cluster), text)
    : el("span", {}, swatch(cluster), text);
}

function noRounds() {
  return [el("h1", {}, "Clusters"), el("p", {}, "No round of this run is shown.")];
}

function clusterFacts(labels, round, example) {
  return run.sources
    .filter((source) => labels?.[source]?.[example] >= 0)
    .map((source) => clusterTitle(source, round, labels[source][example]));
}
