// Small helpers for the page. Whatever comes from records enters as text, never as markup.

/** Make an element; `attributes` are attributes, and `on<event>` functions listeners. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      made.addEventListener(name.slice(2), value);
    } else if (value !== null && value !== false) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Return the element of an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Set the text, and the hint where one is given, touching nothing that is so already. */
export function setText(node, text, hint) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
  if (hint !== undefined && node.title !== hint) {
    node.title = hint;
  }
}

/** Set or take away a class. */
export function mark(node, name, wanted) {
  node.classList.toggle(name, Boolean(wanted));
}

/**
 * Make the children of `parent` those of `items`, in their order, reusing what is there by key, so
 * that focus and what a person has selected stay. `create(item)` gives an element, `update(element,
 * item)` fills it. Where the focused child goes, focus goes to its neighbour.
 */
export function keyed(parent, items, keyOf, create, update) {
  const known = parent.byKey ?? new Map();
  const wanted = new Map();
  for (const item of items) {
    const key = keyOf(item);
    wanted.set(key, known.get(key) ?? create(item));
    update(wanted.get(key), item);
  }
  for (const [key, child] of known) {
    if (!wanted.has(key)) {
      leave(parent, child);
    }
  }
  let place = parent.firstElementChild;
  for (const child of wanted.values()) {
    if (child === place) {
      place = place.nextElementSibling;
    } else {
      parent.insertBefore(child, place);
    }
  }
  parent.byKey = wanted;
}

function leave(parent, child) {
  const focused = child.contains(document.activeElement);
  const neighbour = child.nextElementSibling ?? child.previousElementSibling;
  child.remove();
  if (focused) {
    const heading = parent.closest("section")?.querySelector("[tabindex='-1']");
    (neighbour?.querySelector("button") ?? heading)?.focus();
  }
}

/** Make a row of a table; `cells` are [key, label, class], and the first one heads the row. */
export function row(cells) {
  // Roles are said, since a narrow page shows rows as blocks, which would take them away.
  const made = el("tr", { role: "row" });
  made.cell = {};
  for (const [key, label, look] of cells) {
    const first = made.cells.length === 0;
    const cell = first
      ? el("th", { scope: "row", role: "rowheader", class: look, "data-label": label })
      : el("td", { role: "cell", class: look, "data-label": label });
    made.cell[key] = cell;
    made.append(cell);
  }
  return made;
}
