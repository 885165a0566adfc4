// Every word must occur in a section; sections with more of them in their heading come first.
const MOST = 30;
const input = document.querySelector("#search input");
const found = document.querySelector("#found");

function search(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  return SECTIONS
    .map(([page, title, anchor, heading, text]) => {
      const head = `${title} ${heading}`.toLowerCase();
      const all = `${head} ${text.toLowerCase()}`;
      if (!words.every((word) => all.includes(word))) return null;
      const rank = words.filter((word) => head.includes(word)).length;
      return { page, title, anchor, heading, rank, excerpt: excerpt(text, words[0]) };
    })
    .filter(Boolean)
    .sort((a, b) => b.rank - a.rank)
    .slice(0, MOST);
}

function excerpt(text, word) {
  const start = Math.max(text.toLowerCase().indexOf(word) - 60, 0);
  return (start ? "… " : "") + text.slice(start, start + 160);
}

function show(results) {
  found.hidden = results === null;
  found.replaceChildren();
  if (results === null) return;
  if (!results.length) found.append("nothing found");
  for (const { page, title, anchor, heading, excerpt } of results) {
    const line = document.createElement("p");
    const link = document.createElement("a");
    link.href = `${page}.html#${encodeURIComponent(anchor)}`;
    link.textContent = heading === title ? title : `${title}: ${heading}`;
    link.addEventListener("click", () => show(null));
    const small = document.createElement("small");
    small.textContent = excerpt;
    line.append(link, small);
    found.append(line);
  }
}

input.addEventListener("input", () => show(search(input.value)));
input.form.addEventListener("submit", (event) => event.preventDefault());
// The table of contents is open beside the text, and closed above it on a phone.
document.querySelector("nav details").open = matchMedia("(min-width: 60rem)").matches;
