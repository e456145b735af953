"use strict";
// Lists that hold only what is seen, cards of examples in them, and clips that play.

const LIST_GAP = 12;
const LIST_MARGIN = 400; // pixels above and below the window that are built, too
const MAX_LIST_HEIGHT = 16e6; // browsers draw nothing beyond some 17 million pixels
const openLists = new Set();

// A grid of equally high items, of which those near the window are in the document.
class WindowedList {
  // build(item, index) returns {element, open, toggle, release}; all but the first may
  // be missing. An item is as high as textHeight and ratio times its width.
  constructor(items, { label, build, minWidth, ratio, textHeight, empty = "None." }) {
    Object.assign(this, { build, minWidth, ratio, textHeight, empty });
    this.built = new Map();
    this.active = 0;
    this.grid = el("div", { class: "grid", role: "list", "aria-label": label });
    this.note = el("p", { class: "muted" });
    this.element = el("div", {}, this.note, this.grid);
    this.grid.addEventListener("keydown", (event) => this.onKey(event));
    this.observer = new ResizeObserver(() => this.update());
    this.observer.observe(this.grid);
    openLists.add(this);
    this.setItems(items);
  }

  setItems(items) {
    this.clear();
    this.items = items;
    this.active = 0;
    this.update();
  }

  clear() {
    for (const index of [...this.built.keys()]) this.remove(index);
  }

  close() {
    this.clear();
    this.observer.disconnect();
    openLists.delete(this);
  }

  remove(index) {
    const item = this.built.get(index);
    item.release?.();
    item.element.remove();
    this.built.delete(index);
  }

  measure() {
    const width = this.grid.clientWidth;
    const minWidth = width < 520 ? Math.min(this.minWidth, 150) : this.minWidth;
    this.columns = Math.max(1, Math.floor((width + LIST_GAP) / (minWidth + LIST_GAP)));
    this.width = (width - LIST_GAP * (this.columns - 1)) / this.columns;
    this.height = Math.round(this.width * this.ratio) + this.textHeight;
    const maxRows = Math.floor(MAX_LIST_HEIGHT / (this.height + LIST_GAP));
    this.count = Math.min(this.items.length, maxRows * this.columns);
  }

  update() {
    if (this.grid.clientWidth === 0) return;
    this.measure();
    const step = this.height + LIST_GAP;
    const rows = Math.ceil(this.count / this.columns);
    this.grid.style.height = `${Math.max(0, rows * step - LIST_GAP)}px`;
    this.note.textContent = this.items.length === 0 ? this.empty : "";
    if (this.count < this.items.length) {
      this.note.textContent = `The first ${wholeNumber(this.count)} of ${wholeNumber(this.items.length)}.`;
    }
    this.note.hidden = this.note.textContent === "";
    const top = this.grid.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((-top - LIST_MARGIN) / step));
    const last = Math.ceil((window.innerHeight - top + LIST_MARGIN) / step);
    const begin = first * this.columns;
    const end = Math.min(this.count, last * this.columns);
    for (const [index, { element }] of [...this.built]) {
      const outside = index < begin || index >= end;
      if (outside && !element.contains(document.activeElement)) this.remove(index);
    }
    for (let index = begin; index < end; index++) {
      if (!this.built.has(index)) this.insert(index);
    }
    for (const [index, { element }] of this.built) this.place(element, index);
  }

  insert(index) {
    const item = this.build(this.items[index], index);
    item.element.setAttribute("role", "listitem");
    item.element.setAttribute("aria-posinset", index + 1);
    item.element.setAttribute("aria-setsize", this.items.length);
    item.element.tabIndex = index === this.active ? 0 : -1;
    item.element.addEventListener("focus", () => this.activate(index));
    this.built.set(index, item);
    const later = [...this.built.keys()].filter((other) => other > index);
    const next = later.length > 0 ? this.built.get(Math.min(...later)).element : null;
    this.grid.insertBefore(item.element, next);
  }

  place(element, index) {
    const row = Math.floor(index / this.columns);
    element.style.width = `${this.width}px`;
    element.style.height = `${this.height}px`;
    element.style.left = `${(index % this.columns) * (this.width + LIST_GAP)}px`;
    element.style.top = `${row * (this.height + LIST_GAP)}px`;
  }

  activate(index) {
    const before = this.built.get(this.active);
    if (before) before.element.tabIndex = -1;
    this.active = index;
    this.built.get(index).element.tabIndex = 0;
  }

  focusItem(index) {
    const row = Math.floor(index / this.columns);
    const gridTop = this.grid.getBoundingClientRect().top + window.scrollY;
    const top = gridTop + row * (this.height + LIST_GAP);
    const header = document.querySelector("header").offsetHeight + LIST_GAP;
    if (top < window.scrollY + header) window.scrollTo(0, top - header);
    const bottom = top + this.height + LIST_GAP;
    if (bottom > window.scrollY + window.innerHeight) {
      window.scrollTo(0, bottom - window.innerHeight);
    }
    this.update();
    this.built.get(index)?.element.focus({ preventScroll: true });
  }

  onKey(event) {
    const card = [...this.built].find(([, { element }]) => element === event.target);
    if (!card || event.ctrlKey || event.metaKey || event.altKey) return;
    const [index, item] = card;
    const targets = {
      ArrowLeft: index - 1,
      ArrowRight: index + 1,
      ArrowUp: index - this.columns,
      ArrowDown: index + this.columns,
      Home: 0,
      End: this.count - 1,
    };
    if (event.key in targets) {
      const target = targets[event.key];
      if (target >= 0 && target < this.count) this.focusItem(target);
    } else if (event.key === "Enter") item.open?.();
    else if (event.key === " " && item.toggle) item.toggle();
    else return;
    event.preventDefault();
  }
}

function updateLists() {
  for (const list of openLists) list.update();
}

function closeLists() {
  for (const list of [...openLists]) list.close();
}

let listUpdate = 0;
window.addEventListener(
  "scroll",
  () => {
    cancelAnimationFrame(listUpdate);
    listUpdate = requestAnimationFrame(updateLists);
  },
  { passive: true },
);

// Sound is on unless it was switched off; browsers allow it from the first gesture on.
const clipPlayer = { video: null, sound: true };

function soundAllowed() {
  return navigator.userActivation?.hasBeenActive ?? false;
}

function soundIsOn() {
  return clipPlayer.sound && soundAllowed();
}

function switchSound() {
  clipPlayer.sound = document.getElementById("sound").getAttribute("aria-pressed") !== "true";
  writeSetting("sound", clipPlayer.sound ? "on" : "off");
  showSound();
}

function showSound() {
  const button = document.getElementById("sound");
  const waits = clipPlayer.sound && !soundAllowed();
  button.setAttribute("aria-pressed", soundIsOn());
  showSwitch(button, "Sound", waits ? "click to allow" : soundIsOn() ? "on" : "off");
  for (const video of document.querySelectorAll("video")) video.muted = !soundIsOn();
}

async function playClip(video) {
  if (clipPlayer.video !== video) pauseClip();
  clipPlayer.video = video;
  if (!video.src) loadClip(video);
  video.muted = !soundIsOn();
  try {
    await video.play();
  } catch (error) {
    if (error.name !== "NotAllowedError" || video.muted) return;
    video.muted = true;
    await video.play().catch(() => {});
  }
}

function pauseClip(video = clipPlayer.video) {
  video?.pause();
  if (clipPlayer.video === video) clipPlayer.video = null;
}

function toggleClip(video) {
  if (video.paused) playClip(video);
  else pauseClip(video);
}

function loadClip(video) {
  video.poster = video.dataset.poster ?? "";
  video.src = video.dataset.clip;
}

function unloadClip(video) {
  pauseClip(video);
  video.removeAttribute("src");
  video.load();
}

const clipObserver = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.src) loadClip(target);
      else if (!isIntersecting && target.src) unloadClip(target);
    }
  },
  { rootMargin: "100px" },
);

// A <video> that loads when it is scrolled into view.
function clipElement(medium, title) {
  const video = el("video", {
    preload: "metadata",
    "aria-label": `Clip of ${title}`,
    "data-clip": medium.clip,
  });
  if (medium.poster) video.dataset.poster = medium.poster;
  Object.assign(video, { loop: true, playsInline: true, muted: true });
  video.addEventListener("play", () => {
    if (clipPlayer.video !== video) pauseClip();
    clipPlayer.video = video;
  });
  clipObserver.observe(video);
  return video;
}

function pictureElement(medium) {
  if (medium?.poster) {
    return el("img", { src: medium.poster, alt: "", loading: "lazy", decoding: "async" });
  }
  return el("span", { class: "no-picture" }, "no preview");
}

function mediumNote(medium) {
  if (!medium) return "";
  return medium.note || (medium.has_sound ? "" : "no sound");
}

// A card of an example. facts: a list of short texts; href: where Enter leads.
function exampleCard(example, { media, facts, href }) {
  const medium = media[example];
  const id = el("bdi", {}, `#${example}`);
  const label = el("bdi", {});
  const link = el("a", { href, tabindex: -1, class: "id" }, id);
  const video = medium?.clip ? clipElement(medium, `#${example}`) : null;
  const picture = el("div", { class: "picture" }, video ?? pictureElement(medium));
  const spectrogram = medium?.spectrogram
    ? el("img", {
        class: "spectrogram",
        src: medium.spectrogram,
        alt: "Spectrogram",
        loading: "lazy",
      })
    : el(
        "div",
        { class: "spectrogram none" },
        medium ? mediumNote(medium) || "no spectrogram" : "",
      );
  const noteLine = medium?.spectrogram ? mediumNote(medium) : "";
  const element = el(
    "article",
    { class: "card example", "data-example": example },
    picture,
    spectrogram,
    el("p", { class: "line" }, link),
    el("p", { class: "line" }, label),
    el("p", { class: "line muted facts" }, facts.filter(Boolean).join(" · ")),
    el("p", { class: "line note" }, noteLine),
  );
  const kindFact = facts.filter(Boolean).join(", ");
  loadExample(example).then(({ id: text, label: number }) => {
    id.textContent = text || `#${example}`;
    label.textContent = labelName(number);
    link.title = shortText(text, 300);
    label.title = shortText(label.textContent, 300);
    const described = [shortText(id.textContent), shortText(label.textContent), kindFact];
    element.setAttribute("aria-label", described.filter(Boolean).join(", "));
    video?.setAttribute("aria-label", `Clip of ${shortText(id.textContent)}`);
  }, showError);
  if (video) {
    const moves = !window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    picture.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse" && moves) playClip(video);
    });
    picture.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") pauseClip(video);
    });
    picture.addEventListener("click", () => {
      if (video.paused || video.muted === soundIsOn()) playClip(video);
      else pauseClip(video);
    });
    element.addEventListener("focusout", () => pauseClip(video));
    video.addEventListener("error", () => {
      if (video.src)
        element.querySelector(".note").textContent = "this browser cannot play the clip";
    });
    for (const name of ["play", "pause"]) {
      video.addEventListener(name, () => element.classList.toggle("playing", !video.paused));
    }
  }
  return {
    element,
    open: () => goTo(href),
    toggle: video ? () => toggleClip(video) : undefined,
    release() {
      if (!video) return;
      clipObserver.unobserve(video);
      unloadClip(video);
    },
  };
}

// A list of examples; factsOf(item) describes an item, exampleOf(item) is its number.
function exampleList(items, { label, media, state, factsOf, exampleOf = (item) => item, empty }) {
  return new WindowedList(items, {
    label,
    empty,
    minWidth: 200,
    ratio: 0.75,
    textHeight: 140,
    build: (item) =>
      exampleCard(exampleOf(item), {
        media,
        facts: factsOf(item),
        href: linkTo({
          view: "video",
          round: state.round,
          source: state.source,
          example: exampleOf(item),
        }),
      }),
  });
}
