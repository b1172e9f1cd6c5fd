// SPDX-License-Identifier: Apache-2.0
// Draws data.panels: one SVG per panel, all with the same window [from, to) in
// nanoseconds. Only what the window shows is in the document, and bars narrower
// than a pixel are merged with their neighbours, so size does not slow it down.
(function () {
  const NS = "http://www.w3.org/2000/svg";
  const colors = ["#0072b2", "#56b4e9", "#b8860b", "#d55e00", "#009e73"];
  const margin = 104, laneHeight = 30, gap = 4, axis = 22;
  const end = Math.max(1, ...data.Panels.map((p) => p.Milliseconds * 1e6));
  let from = 0, to = end;

  function element(name, attributes, parent) {
    const e = document.createElementNS(NS, name);
    for (const k in attributes) e.setAttribute(k, attributes[k]);
    if (parent) parent.appendChild(e);
    return e;
  }

  // milliseconds writes a time with the digits that the window's width needs.
  function milliseconds(t) {
    const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10((to - from) / 1e6)) + 2));
    return (t / 1e6).toFixed(digits);
  }

  // ticks are round times about a hundred pixels apart.
  function ticks(width) {
    const raw = (to - from) / Math.max(1, width / 110);
    const power = Math.pow(10, Math.floor(Math.log10(raw)));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw);
    const list = [];
    for (let k = Math.ceil(from / step); k * step <= to; k++) list.push(k * step);
    return list;
  }

  // first is the index of the first bar that ends after t; bars are in order.
  function first(bars, t) {
    let low = 0, high = bars.length;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (bars[mid][4] + bars[mid][5] > t) high = mid; else low = mid + 1;
    }
    return low;
  }

  // visible are the bars of a lane in the window, as [first, last, x, width].
  function visible(bars, scale) {
    const list = [];
    for (let i = first(bars, from); i < bars.length && bars[i][4] < to; i++) {
      const x = (bars[i][4] - from) * scale, width = bars[i][5] * scale;
      const last = list[list.length - 1];
      if (last && width < 1 && last[3] < 1.5 && x - (last[2] + last[3]) < 0.5 && bars[last[0]][0] === bars[i][0]) {
        last[1] = i;
        last[3] = x + width - last[2];
      } else {
        list.push([i, i, x, width]);
      }
    }
    return list;
  }

  function drawGrid(svg, lanes, width, height) {
    lanes.forEach((lane, i) => {
      const y = i * (laneHeight + gap);
      element("rect", { class: "lane", x: margin, y: y, width: width, height: laneHeight }, svg);
      element("text", { x: 0, y: y + laneHeight / 2 + 4 }, svg).textContent = lane.Name;
    });
    for (const t of ticks(width)) {
      const x = margin + (t - from) * width / (to - from);
      element("line", { class: "grid", x1: x, x2: x, y1: 0, y2: height - axis }, svg);
      element("text", { x: x + 2, y: height - 6 }, svg).textContent = milliseconds(t) + " ms";
    }
  }

  function drawLane(svg, lane, index, width) {
    const y = index * (laneHeight + gap);
    const scale = width / (to - from);
    for (const [a, b, x, w] of visible(lane.Bars, scale)) {
      const bar = lane.Bars[a];
      const left = Math.max(0, x), right = Math.min(width, x + w);
      const rect = element("rect", {
        class: "task", x: margin + left, y: y + 2, width: Math.max(0.5, right - left), height: laneHeight - 4,
        fill: colors[bar[0] % colors.length], "fill-opacity": bar[2] % 2 ? 0.72 : 1,
      }, svg);
      rect.task = [lane.Bars, a, b];
      if (right - left > 56) {
        element("text", { class: "in", x: margin + left + 4, y: y + laneHeight / 2 + 4 }, svg)
          .textContent = "L" + bar[1] + " m" + bar[2] + (bar[0] > 1 ? " s" + bar[3] : "");
      }
    }
  }

  function drawPanel(panel, index) {
    const svg = document.getElementById("panel-" + index);
    const height = panel.Lanes.length * (laneHeight + gap) + axis;
    svg.setAttribute("height", height);
    svg.replaceChildren();
    const width = Math.max(50, svg.clientWidth - margin - 8);
    drawGrid(svg, panel.Lanes, width, height);
    panel.Lanes.forEach((lane, i) => drawLane(svg, lane, i, width));
  }

  // draw paints with the next frame, or soon where frames are not shown.
  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(paint);
    setTimeout(paint, 100);
  }

  function paint() {
    if (!waiting) return;
    waiting = false;
    data.Panels.forEach(drawPanel);
  }

  // show moves the window, at least 100 ns wide and within the timeline.
  function show(a, b) {
    const width = Math.min(end, Math.max(100, b - a));
    from = Math.min(Math.max(0, a), end - width);
    to = from + width;
    draw();
  }

  function zoom(factor, at) {
    show(at - (at - from) * factor, at + (to - at) * factor);
  }

  function timeAt(svg, clientX) {
    const box = svg.getBoundingClientRect();
    const width = Math.max(50, svg.clientWidth - margin - 8);
    const part = Math.min(1, Math.max(0, (clientX - box.left - margin) / width));
    return from + part * (to - from);
  }

  const tip = document.getElementById("tip");
  function hover(event) {
    const task = event.target.task;
    tip.hidden = !task;
    if (!task) return;
    const [bars, a, b] = task, bar = bars[a], last = bars[b];
    let text = a === b ? data.Kinds[bar[0]] : (b - a + 1) + " x " + data.Kinds[bar[0]] + ", from";
    text += "\nlayer " + bar[1] + ", micro-batch " + bar[2] + (bar[0] > 1 ? ", segment " + bar[3] : "");
    text += "\n" + (bar[4] / 1e6).toFixed(3) + " to " + ((last[4] + last[5]) / 1e6).toFixed(3) + " ms";
    text += "\n" + ((last[4] + last[5] - bar[4]) / 1e6).toFixed(4) + " ms";
    tip.textContent = text;
    tip.style.left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8) + "px";
  }

  function attach(svg) {
    let grabbed = null;
    svg.addEventListener("wheel", (e) => {
      e.preventDefault();
      zoom(Math.exp(Math.sign(e.deltaY) * 0.2), timeAt(svg, e.clientX));
    }, { passive: false });
    svg.addEventListener("pointerdown", (e) => {
      grabbed = [e.clientX, from, to];
      svg.setPointerCapture(e.pointerId);
    });
    svg.addEventListener("pointermove", (e) => {
      if (!grabbed) return hover(e);
      const shift = (grabbed[0] - e.clientX) * (grabbed[2] - grabbed[1]) / Math.max(50, svg.clientWidth - margin - 8);
      show(grabbed[1] + shift, grabbed[2] + shift);
    });
    svg.addEventListener("pointerup", () => { grabbed = null; });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  // firstLayers shows until the third layer begins, in the slowest panel.
  function firstLayers() {
    let until = 0;
    for (const p of data.Panels) {
      const bar = p.Lanes[0].Bars.find((b) => b[1] === 2);
      until = Math.max(until, bar ? bar[4] : p.Milliseconds * 1e6);
    }
    show(0, until);
  }

  const middle = () => (from + to) / 2;
  const actions = {
    in: () => zoom(0.5, middle()), out: () => zoom(2, middle()),
    left: () => show(from - (to - from) / 4, to - (to - from) / 4),
    right: () => show(from + (to - from) / 4, to + (to - from) / 4),
    layers: firstLayers, all: () => show(0, end),
  };
  for (const id in actions) document.getElementById(id).addEventListener("click", actions[id]);
  const keys = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", "0": "all" };
  document.addEventListener("keydown", (e) => {
    if (keys[e.key] && !e.ctrlKey && !e.metaKey) actions[keys[e.key]]();
  });

  const legend = document.getElementById("legend");
  data.Kinds.forEach((kind, i) => {
    const key = document.createElement("span"), swatch = document.createElement("i");
    key.className = "key";
    swatch.style.background = colors[i % colors.length];
    key.append(swatch, kind);
    legend.append(key);
  });
  document.querySelectorAll("svg.timeline").forEach(attach);
  window.addEventListener("resize", draw);
  firstLayers();
})();
