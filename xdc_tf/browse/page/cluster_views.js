"use strict";
// Views of the clusters of a round, of one cluster, and of the names given.

/* Clusters */

const CLUSTER_ORDERS = {
  size: ({ size }) => size,
  dispersion: ({ dispersion }) => dispersion,
  purity: ({ purity }) => purity,
  churn: ({ churn }) => churn,
  agreement: ({ agreement }) => Object.values(agreement ?? {})[0],
  number: ({ cluster }) => -cluster,
};
const MEMBER_KINDS = { typical: "Typical", borderline: "Borderline", random: "Random" };

async function loadRoundOnly(state) {
  return state.round === null ? null : { round: await loadRound(state.round) };
}

async function loadClusters(state) {
  if (state.round === null) return null;
  const [round, media] = await Promise.all([loadRound(state.round), loadMedia()]);
  return { round, media };
}

function clustersInOrder(round, state) {
  const order = CLUSTER_ORDERS[state.sort] ?? CLUSTER_ORDERS.size;
  const sign = state.order === "ascending" ? 1 : -1;
  const clusters = [...(round.clusterings[state.source]?.clusters ?? [])];
  const missing = (value) => value === null || value === undefined;
  return clusters.sort((a, b) => {
    const [first, second] = [order(a), order(b)];
    if (missing(first) || missing(second))
      return missing(first) - missing(second) || a.cluster - b.cluster;
    return sign * (first - second) || a.cluster - b.cluster;
  });
}

function figuresText({ size, dispersion, purity, churn, agreement }) {
  const others = Object.entries(agreement ?? {}).map(
    ([other, value]) => `agrees with ${other} ${percent(value)}`,
  );
  return [
    [`${wholeNumber(size)} videos`, purity === null ? "" : `purity ${percent(purity)}`],
    [
      dispersion === null ? "" : `dispersion ${decimal(dispersion)}`,
      churn === null ? "" : `churn ${percent(churn)}`,
    ],
    others,
  ].map((parts) => parts.filter(Boolean).join(" · "));
}

function clusterTile(cluster, state, media) {
  const { source, round } = state;
  const entry = clusterEntry(source, round, cluster.cluster);
  const href = linkTo({ ...state, view: "clusters", cluster: cluster.cluster });
  const shown = cluster.members.filter(({ example }) => media[example]?.poster).slice(0, 3);
  const title = el("bdi", {}, clusterTitle(source, round, cluster.cluster));
  const [commonest] = cluster.classes;
  const marks = [
    entry.name ? `${source} ${cluster.cluster}` : "",
    entry.junk ? "junk" : "",
    entry.mergedInto === null ? "" : `merged into ${entry.mergedInto}`,
  ];
  const figures = figuresText(cluster);
  const element = el(
    "article",
    {
      class: `card tile${entry.junk ? " junk" : ""}`,
      "data-cluster": cluster.cluster,
      onclick: ({ target }) => target.closest("a") || goTo(href),
    },
    el(
      "div",
      { class: "posters" },
      shown.length > 0
        ? shown.map(({ example }) => pictureElement(media[example]))
        : el("span", { class: "no-picture" }, "no preview"),
    ),
    el(
      "p",
      { class: "line" },
      swatch(cluster.cluster),
      el("a", { href, tabindex: -1, class: "id" }, title),
    ),
    el(
      "p",
      { class: "line" },
      el("bdi", {}, commonest ? shortText(labelName(commonest[0]), 200) : ""),
    ),
    figures.map((text) => el("p", { class: "line muted" }, text)),
    el("p", { class: "line note" }, marks.filter(Boolean).join(" · ")),
  );
  element.setAttribute(
    "aria-label",
    [shortText(title.textContent), ...figures, ...marks].filter(Boolean).join(", "),
  );
  return { element, open: () => goTo(href) };
}

function showClusters(state, data) {
  if (data === null) return noRounds();
  const clusters = clustersInOrder(data.round, state);
  if (Number.isInteger(state.cluster)) {
    const position = clusters.findIndex(({ cluster }) => cluster === state.cluster);
    if (position >= 0) return showCluster(state, data, clusters, position);
  }
  const matches = (cluster, words) => {
    const texts = [
      clusterTitle(state.source, state.round, cluster.cluster),
      `${cluster.cluster}`,
      ...cluster.classes.map(([label]) => labelName(label)),
    ];
    return texts.some((text) => text.toLowerCase().includes(words));
  };
  const hideJunk = state.junk === "hidden";
  const chosen = (words) =>
    clusters.filter(
      (cluster) =>
        (!words || matches(cluster, words.toLowerCase())) &&
        !(hideJunk && clusterEntry(state.source, state.round, cluster.cluster).junk),
    );
  const list = new WindowedList(chosen(state.filter), {
    label: "Clusters",
    minWidth: 230,
    ratio: 0.34,
    textHeight: 136,
    empty: "No cluster matches.",
    build: (cluster) => clusterTile(cluster, state, data.media),
  });
  const filter = el("input", {
    id: "filter",
    type: "search",
    value: state.filter ?? "",
    oninput: () => {
      list.setItems(chosen(filter.value));
      replaceState({ filter: filter.value }, false);
      announce(`${list.items.length} clusters`);
    },
  });
  return [
    el(
      "h1",
      {},
      `${wholeNumber(clusters.length)} ${state.source} clusters of round ${state.round}`,
    ),
    controls(
      roundSlider(state),
      sourceSwitch(state),
      selectElement(
        "sort",
        "Sort by",
        Object.keys(CLUSTER_ORDERS).map((name) => [name, name]),
        state.sort ?? "size",
        (sort) => replaceState({ sort }),
      ),
      selectElement(
        "order",
        "Order",
        [
          ["descending", "largest first"],
          ["ascending", "smallest first"],
        ],
        state.order ?? "descending",
        (order) => replaceState({ order }),
      ),
      el("label", { class: "control" }, el("span", {}, "Name, number or class"), filter),
      selectElement(
        "junk-shown",
        "Junk",
        [
          ["shown", "shown"],
          ["hidden", "hidden"],
        ],
        state.junk ?? "shown",
        (junk) => replaceState({ junk }),
      ),
    ),
    list.element,
  ];
}

function showCluster(state, { round, media }, clusters, position) {
  const { source } = state;
  const cluster = clusters[position];
  const step = (offset, id, text) => {
    const other = clusters[position + offset];
    return other
      ? el("a", { id, class: "button", href: linkTo({ ...state, cluster: other.cluster }) }, text)
      : null;
  };
  const labelled = cluster.classes.length > 0;
  const others = Object.entries(cluster.others ?? {}).map(([other, counts]) =>
    el(
      "section",
      { class: "half" },
      el("h2", {}, `What ${other} calls them`),
      barsElement(
        counts.map(([number, count]) => [
          clusterTitle(other, state.round, number),
          count,
          linkTo({ view: "clusters", round: state.round, source: other, cluster: number }),
        ]),
        cluster.size,
      ),
    ),
  );
  const members = Object.entries(MEMBER_KINDS).map(([kind, title]) => {
    const ofKind = cluster.members.filter((member) => member.kind === kind);
    if (ofKind.length === 0) return null;
    const list = exampleList(ofKind, {
      label: `${title} members`,
      media,
      state,
      exampleOf: ({ example }) => example,
      factsOf: ({ distance, margin }) => [
        distance === null ? "" : `distance ${decimal(distance)}`,
        margin === null ? "" : `margin ${decimal(margin)}`,
      ],
    });
    return el("section", {}, el("h2", {}, `${title} members`), list.element);
  });
  return [
    el(
      "p",
      { class: "trail" },
      el("a", { href: linkTo({ ...state, cluster: null }) }, `All ${source} clusters`),
      step(-1, "previous-cluster", "Previous"),
      step(1, "next-cluster", "Next"),
    ),
    el(
      "h1",
      {},
      swatch(cluster.cluster),
      el("bdi", { id: "cluster-title" }, clusterTitle(source, state.round, cluster.cluster)),
    ),
    el(
      "p",
      {},
      `${source} ${cluster.cluster} of round ${state.round} · `,
      figuresText(cluster).filter(Boolean).join(" · "),
    ),
    controls(roundSlider(state), namingForm(state, cluster, clusters)),
    el(
      "div",
      { class: "halves" },
      labelled
        ? el(
            "section",
            { class: "half" },
            el("h2", {}, "Classes"),
            barsElement(
              cluster.classes.map(([label, count]) => [
                labelName(label) || "no label",
                count,
                linkTo({
                  view: "search",
                  round: state.round,
                  source,
                  label: label < 0 ? null : label,
                }),
              ]),
              cluster.size,
            ),
          )
        : null,
      others,
    ),
    members,
    allMembersSection(state, cluster, media),
  ];
}

function allMembersSection(state, cluster, media) {
  const section = el("section", {}, el("h2", {}, "All members"));
  const button = el(
    "button",
    {
      type: "button",
      id: "all-members",
      onclick: async () => {
        const labels = await loadLabels(state.round);
        const examples = examplesWhere(labels[state.source], cluster.cluster, media);
        const list = exampleList(examples, {
          label: "All members",
          media,
          state,
          factsOf: (example) => clusterFacts(labels, state.round, example),
        });
        button.replaceWith(list.element);
        list.update();
      },
    },
    `List all ${wholeNumber(cluster.size)}`,
  );
  section.append(button);
  return section;
}

// Examples with a label, those that have media first.
function examplesWhere(labels, wanted, media) {
  const examples = [];
  for (let example = 0; example < labels.length; example++) {
    if (labels[example] === wanted) examples.push(example);
  }
  return mediaFirst(examples, media);
}

function mediaFirst(examples, media) {
  return [
    ...examples.filter((example) => media[example]),
    ...examples.filter((example) => !media[example]),
  ];
}

function namingForm(state, { cluster }, clusters) {
  const { source, round } = state;
  const entry = clusterEntry(source, round, cluster);
  const message = el("span", { class: "muted", role: "status", id: "naming-message" });
  const change = (changes) => {
    try {
      changeEntry(source, round, cluster, changes);
      message.textContent = clusterNames.stored
        ? "Kept in this browser."
        : "This browser keeps nothing: export the names before you leave.";
      document.getElementById("cluster-title").textContent = clusterTitle(source, round, cluster);
    } catch (error) {
      message.textContent = error.message;
      merge.querySelector("select").value = String(
        clusterEntry(source, round, cluster).mergedInto ?? "",
      );
    }
  };
  const name = el("input", {
    id: "name",
    type: "text",
    maxlength: MAX_NAME_LENGTH,
    value: entry.name,
    autocomplete: "off",
    onchange: () => change({ name: name.value.trim() }),
  });
  const junk = el("input", {
    id: "junk",
    type: "checkbox",
    checked: entry.junk,
    onchange: () => change({ junk: junk.checked }),
  });
  const targets = clusters
    .filter((other) => other.cluster !== cluster)
    .map((other) => [other.cluster, clusterTitle(source, round, other.cluster)]);
  targets.sort(([first], [second]) => first - second);
  const merge = selectElement(
    "merge",
    "Merge into",
    [["", "–"], ...targets],
    entry.mergedInto ?? "",
    (value) => change({ mergedInto: value === "" ? null : Number(value) }),
  );
  return el(
    "form",
    {
      class: "controls naming",
      "aria-label": "Name of the cluster",
      onsubmit: (event) => event.preventDefault(),
    },
    el("label", { class: "control" }, el("span", {}, "Name"), name),
    el("label", { class: "control check" }, junk, el("span", {}, "Junk")),
    merge,
    message,
  );
}

/* Names */

function showNames() {
  const message = el("p", { role: "status", id: "names-message" });
  const rows = sortedEntries().map((entry) => [
    entry.source,
    entry.round,
    clusterLink(entry.source, entry.round, entry.cluster),
    entry.name || "–",
    entry.junk ? "junk" : "–",
    entry.mergedInto === null ? "–" : clusterLink(entry.source, entry.round, entry.mergedInto),
  ]);
  const file = el("input", {
    id: "import",
    type: "file",
    accept: ".csv,text/csv",
    onchange: async () => {
      try {
        const count = importNames(await file.files[0].text());
        await showState();
        document.getElementById("names-message").textContent = `${count} clusters imported.`;
      } catch (error) {
        message.textContent = error.message;
        file.value = "";
      }
    },
  });
  const clear = () => {
    if (!window.confirm("Remove all names of this run from this browser?")) return;
    clusterNames.entries = new Map();
    storeNames();
    showState();
  };
  const columns = ["clustering", "round", "cluster", "name", "junk", "merged into"].map(
    (title) => ({ title }),
  );
  return [
    el("h1", {}, "Names of clusters"),
    el(
      "p",
      {},
      "Names are given on a cluster's page and kept in this browser. The exported file names the clusters for other commands.",
    ),
    clusterNames.stored
      ? null
      : el(
          "p",
          { class: "error" },
          "This browser keeps nothing: export the names before you leave.",
        ),
    controls(
      el("button", { type: "button", id: "export", onclick: downloadNames }, "Export as CSV"),
      el("label", { class: "control" }, el("span", {}, "Import CSV"), file),
      el(
        "button",
        { type: "button", id: "clear", disabled: rows.length === 0, onclick: clear },
        "Remove all",
      ),
    ),
    message,
    rows.length > 0
      ? tableElement(`${rows.length} clusters`, columns, rows)
      : el("p", {}, "No cluster has a name yet."),
  ];
}
