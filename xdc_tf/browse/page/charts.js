"use strict";
// Charts by plotly: curves, flows, the cross table, the map.

const PALETTE = [
  "#4e79a7",
  "#f28e2b",
  "#59a14f",
  "#e15759",
  "#76b7b2",
  "#b6992d",
  "#b07aa1",
  "#ff9da7",
  "#9c755f",
  "#1f9e89",
  "#d37295",
  "#6b8cff",
  "#a0cbe8",
  "#d7a35b",
  "#8cd17d",
  "#c44e8a",
  "#499894",
  "#f1ce63",
  "#d4a6c8",
  "#79706e",
  "#3b6fb6",
  "#e0694b",
  "#2f8f4e",
  "#8a63d2",
];
const NO_COLOUR = "#8b8f98";
const MAX_FLOWS = 300;
const MAX_NAMED_FLOWS = 45; // clusters a side whose names find room
const MAX_POINTS_WITHOUT_WEBGL = 4000;
const openCharts = new Set();

function colourOf(number) {
  return number < 0 ? NO_COLOUR : PALETTE[number % PALETTE.length];
}

// Plotly reads markup in texts; strangers' texts are shown as they are.
function plotText(text) {
  return shortText(text, 40)
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;");
}

function themeColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function isNarrow() {
  return window.innerWidth < 520;
}

function chartLayout(layout) {
  const axis = {
    gridcolor: themeColour("--line"),
    zerolinecolor: themeColour("--line"),
    linecolor: themeColour("--line"),
    automargin: true,
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: themeColour("--text"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 48, r: 16, t: 16, b: 44 },
    modebar: {
      bgcolor: "rgba(0,0,0,0)",
      color: themeColour("--muted"),
      activecolor: themeColour("--accent"),
    },
    hoverlabel: {
      bgcolor: themeColour("--panel"),
      bordercolor: themeColour("--line"),
      font: { color: themeColour("--text") },
    },
    ...layout,
    xaxis: { ...axis, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
  };
}

// An element of a chart that is drawn as soon as plotly is there. draw(plotly, element)
// is called; when the theme changes, too.
function chartElement({ height, text, draw }) {
  const element = el("div", { class: "chart", role: "img", "aria-label": text });
  element.ariaBusy = "true"; // until it is drawn and answers to clicks
  element.style.height = `${height}px`;
  const chart = {
    element,
    async redraw() {
      await loadScript("plotly.min.js");
      if (!openCharts.has(chart) || !element.isConnected) return;
      await draw(Plotly, element);
      element.ariaBusy = "false";
    },
  };
  openCharts.add(chart);
  requestAnimationFrame(() => chart.redraw().catch(showError));
  return element;
}

function redrawCharts() {
  for (const chart of openCharts) chart.redraw().catch(showError);
}

function closeCharts() {
  for (const { element } of openCharts) {
    if (window.Plotly && element.data) Plotly.purge(element);
  }
  openCharts.clear();
}

const CHART_SETTINGS = { responsive: true, displaylogo: false, displayModeBar: false };

function curvesChart(curves, { text, yTitle, range, marked }) {
  return chartElement({
    height: 280,
    text,
    draw: (plotly, element) =>
      plotly.react(
        element,
        curves.map(({ name, x, y, dash }, index) => ({
          type: "scatter",
          mode: "lines+markers",
          name: plotText(name),
          x,
          y,
          line: { color: PALETTE[index], dash: dash ? "dot" : "solid" },
          marker: { size: dash ? 1 : 6 },
        })),
        chartLayout({
          xaxis: { title: { text: "round" }, tickformat: "d", rangemode: "nonnegative" },
          yaxis: { title: { text: yTitle }, range },
          legend: { orientation: "h", y: -0.25 },
          hovermode: "x unified",
          showlegend: true,
          shapes: [
            {
              type: "line",
              x0: marked,
              x1: marked,
              yref: "paper",
              y0: 0,
              y1: 1,
              line: { color: themeColour("--muted"), width: 1, dash: "dash" },
            },
          ],
        }),
        CHART_SETTINGS,
      ),
  });
}

// flows: [[from, to, count], ...], the largest first.
function flowsChart(flows, { titleOfOld, titleOfNew, openOld, openNew, text }) {
  const shown = flows.slice(0, MAX_FLOWS);
  const oldNumbers = [...new Set(shown.map(([from]) => from))];
  const newNumbers = [...new Set(shown.map(([, to]) => to))];
  const titles = [...oldNumbers.map(titleOfOld), ...newNumbers.map(titleOfNew)].map(plotText);
  const most = Math.max(oldNumbers.length, newNumbers.length);
  return chartElement({
    height: Math.min(1000, Math.max(340, 26 * most)),
    text,
    async draw(plotly, element) {
      await plotly.react(
        element,
        [
          {
            type: "sankey",
            arrangement: "fixed",
            node: {
              label: most > MAX_NAMED_FLOWS ? titles.map(() => "") : titles,
              customdata: titles,
              color: [...oldNumbers, ...newNumbers].map(colourOf),
              pad: most > MAX_NAMED_FLOWS ? 2 : 10,
              thickness: 14,
              line: { width: 0 },
              hovertemplate: "%{customdata}: %{value:,d} videos<extra></extra>",
            },
            link: {
              source: shown.map(([from]) => oldNumbers.indexOf(from)),
              target: shown.map(([, to]) => oldNumbers.length + newNumbers.indexOf(to)),
              value: shown.map(([, , count]) => count),
              color: shown.map(([from]) => `${colourOf(from)}66`),
              hovertemplate:
                "%{source.customdata} to %{target.customdata}: %{value:,d} videos<extra></extra>",
            },
          },
        ],
        chartLayout({ margin: { l: 8, r: 8, t: 8, b: 8 } }),
        CHART_SETTINGS,
      );
      element.removeAllListeners("plotly_click");
      element.on("plotly_click", ({ points: [point] }) => {
        if (point.source !== undefined && point.target !== undefined) return;
        const index = point.pointNumber;
        if (index < oldNumbers.length) openOld(oldNumbers[index]);
        else openNew(newNumbers[index - oldNumbers.length]);
      });
    },
  });
}

// rows, columns: cluster numbers in the order shown; values[row][column].
function crossChart({
  rows,
  columns,
  values,
  rowTitle,
  columnTitle,
  titleOfRow,
  titleOfColumn,
  unit,
  text,
  open,
}) {
  return chartElement({
    height: Math.min(900, Math.max(360, 60 + 22 * rows.length)),
    text,
    async draw(plotly, element) {
      const ticks = (numbers, titleOf) => ({
        type: "category",
        showgrid: false,
        tickmode: "array",
        tickvals: numbers.length > 60 ? [] : numbers.map(String),
        ticktext: numbers.map((number) => plotText(shortText(titleOf(number), 16))),
      });
      await plotly.react(
        element,
        [
          {
            type: "heatmap",
            x: columns.map(String),
            y: rows.map(String),
            z: values,
            colorscale: [
              [0, themeColour("--panel")],
              [0.25, themeColour("--heat-low")],
              [1, themeColour("--heat-high")],
            ],
            zmin: 0,
            colorbar: {
              title: { text: unit, side: isNarrow() ? "top" : "right" },
              orientation: isNarrow() ? "h" : "v",
              thickness: 12,
              outlinewidth: 0,
            },
            xgap: columns.length > 60 ? 0 : 1,
            ygap: rows.length > 60 ? 0 : 1,
            hovertemplate: `${plotText(rowTitle)} %{y}, ${plotText(columnTitle)} %{x}: %{z:.3~g}<extra></extra>`,
          },
        ],
        chartLayout({
          xaxis: {
            title: { text: `${plotText(columnTitle)} clusters` },
            ...ticks(columns, titleOfColumn),
          },
          yaxis: {
            title: { text: isNarrow() ? "" : `${plotText(rowTitle)} clusters` },
            autorange: "reversed",
            ...ticks(rows, titleOfRow),
          },
        }),
        CHART_SETTINGS,
      );
      element.removeAllListeners("plotly_click");
      element.on("plotly_click", ({ points: [point] }) => open(Number(point.y), Number(point.x)));
    },
  });
}

let webGl = null; // whether the browser draws by WebGL, once it is known

function hasWebGl() {
  webGl ??= document.createElement("canvas").getContext("webgl") !== null;
  return webGl;
}

// points: {examples, x, y}; groups[i]: the number that colours point i. hover(example or
// null, event), select(examples), open(example) are called.
function mapChart(points, { groups, titleOfGroup, text, hover, select, open }) {
  const byWebGl = hasWebGl();
  const total = points.examples.length;
  const stride = byWebGl ? 1 : Math.ceil(total / MAX_POINTS_WITHOUT_WEBGL);
  // A trace per colour: one colour a trace is drawn many times faster than one a point.
  const members = new Map();
  for (let index = 0; index < total; index += stride) {
    const colour = colourOf(groups[index]);
    if (!members.has(colour)) members.set(colour, []);
    members.get(colour).push(index);
  }
  const traces = [...members];
  const size = total > 20000 ? 3 : total > 2000 ? 5 : 8;
  const exampleAt = (point) => points.examples[traces[point.curveNumber][1][point.pointNumber]];
  const element = chartElement({
    height: Math.max(380, Math.min(760, window.innerHeight - 220)),
    text,
    async draw(plotly, chart) {
      await plotly.react(
        chart,
        traces.map(([colour, indices]) => ({
          type: byWebGl ? "scattergl" : "scatter",
          mode: "markers",
          x: indices.map((index) => points.x[index]),
          y: indices.map((index) => points.y[index]),
          marker: { color: colour, size, opacity: total > 20000 ? 0.6 : 0.8, line: { width: 0 } },
          name: plotText(titleOfGroup(groups[indices[0]])),
          hoverinfo: "none",
        })),
        chartLayout({
          dragmode: "lasso",
          showlegend: false,
          hovermode: "closest",
          hoverdistance: 12,
          margin: { l: 4, r: 4, t: 32, b: 4 },
          xaxis: { showgrid: false, zeroline: false, showticklabels: false },
          yaxis: { showgrid: false, zeroline: false, showticklabels: false },
        }),
        {
          ...CHART_SETTINGS,
          displayModeBar: true,
          scrollZoom: true,
          modeBarButtons: [
            ["lasso2d", "select2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"],
          ],
        },
      );
      for (const name of [
        "plotly_hover",
        "plotly_unhover",
        "plotly_click",
        "plotly_selected",
        "plotly_deselect",
      ]) {
        chart.removeAllListeners(name);
      }
      chart.on("plotly_hover", ({ points: [point], event }) => hover(exampleAt(point), event));
      chart.on("plotly_unhover", () => hover(null));
      chart.on("plotly_click", ({ points: [point] }) => open(exampleAt(point)));
      chart.on("plotly_selected", (event) => event && select(event.points.map(exampleAt)));
      chart.on("plotly_deselect", () => select([]));
    },
  });
  return {
    element,
    note: byWebGl
      ? ""
      : `Without WebGL, ${wholeNumber(Math.ceil(total / stride))} of ${wholeNumber(total)} points are drawn.`,
  };
}
