// Which part of a picture is seen, and the wheel, mouse and fingers that change it.
//
// A part is an interval of 0..1 on each axis. The page keeps what it needs to scroll: the wheel alone, and
// one finger where nothing is zoomed.

const SMALLEST = 0.02;
const SLACK = 5; // pixels that a click may slide

export function makeView(box, changed) {
  const part = { x: [0, 1], y: [0, 1] };
  const pointers = new Map(); // id -> { x, y }
  let pressed = null; // where one pointer went down, until it drags

  const zoomed = () => part.x[1] - part.x[0] < 0.999 || part.y[1] - part.y[0] < 0.999;

  function set(axis, from, length) {
    const size = Math.min(1, Math.max(SMALLEST, length));
    const start = Math.min(1 - size, Math.max(0, from));
    part[axis] = [start, start + size];
  }

  // What is at the shares x, y of the box stays there.
  function zoomAt(factor, x, y) {
    for (const [axis, at] of [["x", x], ["y", y]]) {
      const [from, to] = part[axis];
      const size = Math.min(1, Math.max(SMALLEST, (to - from) * factor));
      set(axis, from + (to - from - size) * at, size);
    }
  }

  // By shares of the box.
  function move(dx, dy) {
    for (const [axis, by] of [["x", dx], ["y", dy]]) {
      const [from, to] = part[axis];
      set(axis, from - by * (to - from), to - from);
    }
  }

  const done = () => {
    box.classList.toggle("zoomed", zoomed());
    changed();
  };

  const place = (event) => {
    const rect = box.getBoundingClientRect();
    return { x: (event.clientX - rect.x) / rect.width, y: (event.clientY - rect.y) / rect.height };
  };

  box.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const { x, y } = place(event);
      zoomAt(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 200), x, y);
      done();
    },
    { passive: false },
  );

  box.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    pointers.set(event.pointerId, place(event));
    pressed = pointers.size === 1 ? { x: event.clientX, y: event.clientY } : null;
  });
  box.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    if (pointers.size === 1) {
      if (!zoomed()) return;
      if (pressed && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < SLACK) return;
      if (pressed) box.setPointerCapture(event.pointerId);
      pressed = null;
      move(now.x - before.x, now.y - before.y);
    } else if (pointers.size === 2) {
      pinch(event.pointerId, before, now);
    }
    pointers.set(event.pointerId, now);
    done();
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
    box.addEventListener(end, (event) => pointers.delete(event.pointerId));
  }

  function pinch(id, before, now) {
    const [, other] = [...pointers].find(([key]) => key !== id);
    const apart = (point) => Math.max(0.02, Math.hypot(point.x - other.x, point.y - other.y));
    zoomAt(apart(before) / apart(now), (now.x + other.x) / 2, (now.y + other.y) / 2);
    move((now.x - before.x) / 2, (now.y - before.y) / 2);
  }

  return {
    part,
    fit() {
      set("x", 0, 1);
      set("y", 0, 1);
      done();
    },
    // Around a place in the picture (shares of the whole), or the middle of what is seen.
    zoom(factor, at = null) {
      for (const axis of ["x", "y"]) {
        const [from, to] = part[axis];
        const size = Math.min(1, (to - from) * factor);
        set(axis, (at ? at[axis] : (from + to) / 2) - size / 2, size);
      }
      done();
    },
    // Move as little as it takes for a place in the picture to be seen.
    reveal(at) {
      for (const axis of ["x", "y"]) {
        const [from, to] = part[axis];
        const edge = (to - from) * 0.1;
        if (at[axis] < from + edge) set(axis, at[axis] - edge, to - from);
        else if (at[axis] > to - edge) set(axis, at[axis] + edge - (to - from), to - from);
      }
      done();
    },
  };
}
