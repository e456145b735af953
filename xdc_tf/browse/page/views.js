"use strict";
// The views: each loads its tables, then returns the elements that show a state.

const VIEWS = {
  overview: { title: "Overview", load: async () => null, show: showOverview },
  clusters: { title: "Clusters", load: loadClusters, show: showClusters },
  rounds: { title: "Rounds", load: loadRoundOnly, show: showRounds },
  across: { title: "Across", load: loadAcross, show: showAcross },
  map: { title: "Map", load: loadMap, show: showMap },
  search: { title: "Search", load: loadExamples, show: showSearch },
  names: { title: "Names", load: async () => null, show: showNames },
  video: { title: "Video", load: loadVideo, show: showVideo, hidden: true },
};

/* Overview */

function showOverview(state) {
  const { data } = run;
  const facts = [
    ["Videos", wholeNumber(data.num_examples)],
    ["Hours", decimal(data.hours, 1)],
    ["Quarantined", wholeNumber(data.num_quarantined)],
    ["Modalities", data.modalities.join(", ")],
    [
      "Labels",
      data.label_names.length > 0 ? `${wholeNumber(data.label_names.length)} classes` : "none",
    ],
    ["Records", data.records],
    ["Method", run.method],
    ["Rounds", wholeNumber(run.rounds.length)],
    ["Made", new Date(run.created).toLocaleString()],
    ["Version", run.version],
  ];
  const config = Object.entries(run.config).map(([key, value]) => [
    key,
    typeof value === "string" ? value : JSON.stringify(value),
  ]);
  return [
    el("h1", {}, el("bdi", {}, run.title)),
    warningsSection(),
    el("section", {}, el("h2", {}, "Data"), factsElement(facts)),
    el("section", {}, el("h2", {}, "Health by round"), healthTable()),
    evaluationsSection(),
    el(
      "section",
      {},
      el("h2", {}, "Configuration"),
      el("p", { class: "muted" }, "Command:"),
      el("pre", { tabindex: 0 }, run.command),
      el(
        "details",
        {},
        el("summary", {}, `${config.length} settings`),
        tableElement("Settings", [{ title: "key" }, { title: "value" }], config),
      ),
    ),
  ];
}

function warningsSection() {
  const heading = el("h2", {}, "Warnings");
  if (run.warnings.length === 0) return el("section", {}, heading, el("p", {}, "None."));
  const items = run.warnings.map(({ kind, round, source, cluster, text, advice }) => {
    const where = [
      kind,
      round !== null && round !== undefined ? `round ${round}` : "",
      source ?? "",
    ]
      .filter(Boolean)
      .join(" · ");
    const shown =
      Number.isInteger(cluster) && run.sources.includes(source) && run.shown_rounds.includes(round);
    return el(
      "li",
      { class: "warning" },
      el("p", {}, el("strong", {}, el("bdi", {}, text))),
      el("p", {}, el("bdi", {}, advice)),
      el(
        "p",
        { class: "muted" },
        where,
        shown ? " · " : "",
        shown
          ? el(
              "a",
              { href: linkTo({ view: "clusters", round, source, cluster }) },
              `see cluster ${cluster}`,
            )
          : "",
      ),
    );
  });
  return el("section", {}, heading, el("ul", { class: "warnings" }, items));
}

function healthTable() {
  const columns = [
    "round",
    "clustering",
    "clusters",
    "effective",
    "empty",
    "largest",
    "NMI with labels",
    "NMI with the round before",
    "NMI with others",
  ].map((title, index) => ({ title, number: index > 1 }));
  const rows = run.rounds.flatMap(({ round, clusterings }) =>
    Object.entries(clusterings).map(([source, health]) => [
      run.shown_rounds.includes(round)
        ? el("a", { href: linkTo({ view: "clusters", round, source }) }, `${round}`)
        : round,
      source,
      wholeNumber(health.num_clusters),
      decimal(health.effective_clusters, 1),
      wholeNumber(health.empty_clusters),
      percent(health.largest_fraction),
      decimal(health.nmi_labels),
      decimal(health.nmi_previous),
      Object.entries(health.nmi ?? {})
        .map(([other, value]) => `${other} ${decimal(value)}`)
        .join(", ") || "–",
    ]),
  );
  return rows.length > 0
    ? tableElement("Health of the clusterings", columns, rows)
    : el("p", {}, "No round is finished.");
}

function evaluationsSection() {
  if (run.evaluations.length === 0) {
    return el("section", {}, el("h2", {}, "Evaluations"), el("p", {}, "None."));
  }
  const tablesOfResults = run.evaluations.map(({ name, protocol, rows }) => {
    const keys = [...new Set(rows.flatMap(Object.keys))];
    const columns = keys.map((key) => ({
      title: key,
      number: rows.some((row) => typeof row[key] === "number"),
    }));
    const text = (value) =>
      typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : (value ?? "–");
    return tableElement(
      `${protocol} (${name})`,
      columns,
      rows.map((row) => keys.map((key) => text(row[key]))),
    );
  });
  return el("section", {}, el("h2", {}, "Evaluations"), tablesOfResults);
}

/* Search */

async function loadExamples(state) {
  const [media, labels] = await Promise.all([
    loadMedia(),
    state.round === null ? {} : loadLabels(state.round),
  ]);
  return { media, labels };
}

let searchTurn = 0;

// Reads block after block; found(examples, blocksRead) is called after each.
async function searchExamples(words, label, found) {
  const turn = ++searchTurn;
  const wanted = words.trim().toLowerCase();
  const exact = /^#\d{1,9}$/.test(wanted) ? Number(wanted.slice(1)) : null;
  const labelMatches = run.data.label_names.map((name) => name.toLowerCase().includes(wanted));
  const examples = [];
  for (let number = 0; number < run.num_blocks; number++) {
    const { first, ids, labels } = await loadBlock(number);
    if (turn !== searchTurn) return;
    ids.forEach((id, row) => {
      if (id === "" || (label !== null && labels[row] !== label)) return;
      const matches =
        wanted === "" ||
        first + row === exact ||
        id.toLowerCase().includes(wanted) ||
        (label === null && labelMatches[labels[row]]);
      if (matches) examples.push(first + row);
    });
    found(examples, number + 1);
  }
}

function showSearch(state, { media, labels }) {
  const status = el("p", { role: "status", id: "search-status", class: "muted" });
  const list = exampleList([], {
    label: "Found videos",
    media,
    state,
    empty: "",
    factsOf: (example) => clusterFacts(labels, state.round, example),
  });
  const label = Number.isInteger(state.label) ? state.label : null;
  const search = (words) => {
    if (words.trim() === "" && label === null) {
      searchTurn++;
      list.setItems([]);
      status.textContent =
        "Type a part of a video id or of a label, or # and the number of an example.";
      return;
    }
    const found = (examples, blocks) => {
      const rest =
        blocks < run.num_blocks ? ` so far, ${blocks} of ${run.num_blocks} blocks searched` : "";
      status.textContent = `${wholeNumber(examples.length)} videos found${rest}.`;
      if (rest === "") list.setItems(mediaFirst(examples, media));
    };
    searchExamples(words, label, found).catch(showError);
  };
  let timer = 0;
  const query = el("input", {
    id: "query",
    type: "search",
    value: state.query ?? "",
    autocomplete: "off",
    spellcheck: "false",
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        replaceState({ query: query.value }, false);
        search(query.value);
      }, 150);
    },
  });
  const labelOptions = [["", "any"], ...run.data.label_names.map((name, index) => [index, name])];
  search(state.query ?? "");
  return [
    el("h1", {}, "Search"),
    el(
      "div",
      { class: "controls", role: "search" },
      el("label", { class: "control wide" }, el("span", {}, "Video id or label"), query),
      labelOptions.length > 1
        ? selectElement("label", "Label", labelOptions, label ?? "", (value) =>
            replaceState({ label: value }),
          )
        : null,
      run.shown_rounds.length > 1 ? roundSlider(state) : null,
    ),
    status,
    list.element,
  ];
}

/* A video and its neighbours */

async function loadVideo(state) {
  if (!Number.isInteger(state.example) || state.example >= run.data.num_rows) return null;
  const neighboursOf = async (source) => [
    source,
    (await loadTable(`neighbours-${source}`).catch(() => ({})))[state.example] ?? [],
  ];
  const [examples, known, ...neighbours] = await Promise.all([
    loadExamples(state),
    loadExample(state.example),
    ...run.sources.map(neighboursOf),
  ]);
  return { ...examples, known, neighbours };
}

function showVideo(state, data) {
  if (data === null) return [el("h1", {}, "Video"), el("p", {}, "There is no such example.")];
  const { media, labels, known, neighbours } = data;
  const { example, round } = state;
  const medium = media[example];
  const title = known.id || `#${example}`;
  let picture = pictureElement(medium);
  if (medium?.clip) {
    picture = clipElement(medium, shortText(title));
    picture.controls = true;
  }
  const clusters = run.sources
    .filter((source) => labels[source]?.[example] >= 0)
    .map((source) => [`Cluster by ${source}`, clusterLink(source, round, labels[source][example])]);
  const facts = [
    ["Example", `#${example}`],
    ["Label", labelName(known.label) || "none"],
    ...clusters,
    [
      "Clip",
      medium?.clip
        ? `${decimal(medium.secs, 1)} s, from the ${medium.from === "file" ? "original file" : "records"}`
        : "none",
    ],
    ["Sound", medium ? (medium.has_sound ? "yes" : medium.note || "none") : "–"],
    ["Note", medium?.note || "–"],
  ];
  return [
    el(
      "p",
      { class: "trail" },
      el("button", { type: "button", onclick: () => history.back() }, "Back"),
      round === null ? null : el("span", { class: "muted" }, `Clusters of round ${round}`),
    ),
    el("h1", {}, el("bdi", { class: "long" }, title)),
    el(
      "div",
      { class: "halves" },
      el(
        "div",
        { class: "half stage" },
        picture,
        medium?.spectrogram
          ? el("img", {
              class: "spectrogram large",
              src: medium.spectrogram,
              alt: "Spectrogram: time from left to right, low frequencies below",
            })
          : null,
      ),
      el("div", { class: "half" }, factsElement(facts)),
    ),
    neighbours.map(([source, nearest]) => {
      const list = exampleList(nearest, {
        label: `Nearest by ${source}`,
        media,
        state,
        exampleOf: ([other]) => other,
        empty: "None is known: neighbours are of videos that have a preview.",
        factsOf: ([other, cosine]) => [
          `cosine ${decimal(cosine)}`,
          ...clusterFacts(labels, round, other),
        ],
      });
      return el("section", {}, el("h2", {}, `Nearest by ${source}`), list.element);
    }),
  ];
}
