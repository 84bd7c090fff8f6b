// Filters the list; without it the page is the whole list. Nothing is stored and nothing is fetched.
(() => {
  const form = document.querySelector(".filter");
  const claims = [...document.querySelectorAll(".claim")];
  const sections = [...document.querySelectorAll("main > section")];
  const unfold = form.querySelector(".unfold");
  const chosen = (name) => new Set([...form.querySelectorAll(`[name=${name}]:checked`)].map((input) => input.value));
  const apply = () => {
    const [verdicts, decks] = [chosen("verdict"), chosen("deck")];
    const words = form.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const claim of claims) {
      const { verdict, deck, text } = claim.dataset;
      const fits = (set, value) => !set.size || set.has(value);
      // As it is written (x_t, beta) and as it is set (β).
      const found = () => { const set = claim.textContent.toLowerCase(); return words.every((w) => text.includes(w) || set.includes(w)); };
      claim.hidden = !(fits(verdicts, verdict) && fits(decks, deck) && found());
      shown += !claim.hidden;
    }
    for (const section of sections) section.hidden = !section.querySelector(".claim:not([hidden])");
    form.querySelector("output").value = `${shown} of ${claims.length}`;
    document.querySelector(".none").hidden = shown > 0;
  };
  // A link to a claim shows it, whatever the filter, with its evidence open.
  const visit = () => {
    const claim = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!claim) return;
    if (claim.hidden || claim.closest("section[hidden]")) { form.reset(); apply(); }
    claim.querySelector(".claim > details")?.setAttribute("open", "");
    claim.scrollIntoView();
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  unfold.addEventListener("click", () => {
    const open = unfold.dataset.open !== "yes";
    unfold.dataset.open = open ? "yes" : "no";
    unfold.textContent = open ? "close all evidence" : "open all evidence";
    for (const claim of claims) if (!claim.hidden) claim.querySelector("details").open = open;
  });
  addEventListener("hashchange", visit);
  apply();
  visit();
})();
