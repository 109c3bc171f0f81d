// Finds the section that has the words, and shows what stands around them. Sphinx's own search names pages, and reads
// each page once more for the excerpt, which a browser does not allow for pages that were opened from a folder.
"use strict";

const EXCERPT = 240;

// A section has a word if one of its own words begins with it: the stem of "solvers" is "solver".
function hits(section, stems) {
  const [, , title, text] = section;
  let score = 0;
  for (const stem of stems) {
    const word = new RegExp(`(?<![\\p{L}\\p{N}])${stem.replace(/[^\p{L}\p{N}_]/gu, "\\$&")}`, "giu");
    const inTitle = title.match(word)?.length ?? 0;
    const inText = text.match(word)?.length ?? 0;
    if (!inTitle && !inText) return 0;
    score += 20 * inTitle + Math.min(inText, 10);
  }
  return score;
}

function excerpt(text, stems) {
  const places = [...stems].map((stem) => text.toLowerCase().indexOf(stem)).filter((place) => place >= 0);
  let start = Math.max(0, Math.min(...places, text.length) - EXCERPT / 3);
  if (!places.length) start = 0;
  if (start > 0) start = text.indexOf(" ", start) + 1;
  const end = text.length > start + EXCERPT ? text.lastIndexOf(" ", start + EXCERPT) : text.length;
  return (start > 0 ? "… " : "") + text.slice(start, end) + (end < text.length ? " …" : "");
}

// The excerpt, with the words that were looked for marked.
function marked(text, stems) {
  const paragraph = document.createElement("p");
  paragraph.className = "context";
  const word = new RegExp(`((?<![\\p{L}\\p{N}])(?:${[...stems].join("|")})[\\p{L}\\p{N}]*)`, "giu");
  text.split(word).forEach((part, i) => {
    paragraph.append(i % 2 ? Object.assign(document.createElement("mark"), { textContent: part }) : part);
  });
  return paragraph;
}

function line(href, title, where, text, stems) {
  const item = document.createElement("li");
  const link = item.appendChild(document.createElement("a"));
  link.href = href;
  link.textContent = title;
  if (where) item.append(` in ${where}`);
  if (text) item.append(marked(excerpt(text, stems), stems));
  return item;
}

Search.query = (query) => {
  const [, stems, , , words] = Search._parseQuery(query);
  const objects = [...words].flatMap((word) => Search.performObjectSearch(word, words));
  const once = new Map(objects.sort((a, b) => a[4] - b[4]).map((object) => [object[1], object]));
  for (const [page, name, anchor] of [...once.values()].reverse().slice(0, 10))
    Search.output.append(line(`${page}.html${anchor}`, name, PAGES.titles[page], "", stems));

  const found = !stems.size ? [] : PAGES.sections.map((section) => [hits(section, stems), section]);
  const best = found.filter(([score]) => score > 0).sort((a, b) => b[0] - a[0]).slice(0, 40);
  for (const [, [page, anchor, title, text]] of best) {
    const where = PAGES.titles[page] === title ? "" : PAGES.titles[page];
    Search.output.append(line(`${page}.html#${anchor}`, title, where, text, stems));
  }
  const count = Search.output.children.length;
  Search.stopPulse();
  Search.title.innerText = "Search results";
  Search.status.innerText = count
    ? `Found in ${count} ${count === 1 ? "place" : "places"}.`
    : "Nothing found: no section has all of these words. Try fewer, or the beginning of one.";
};
