// What the theme leaves out of its two menus, the book's contents and the page's own, and of its
// search. This script asks the network for nothing.
(() => {
  "use strict";
  const mend = (side, name, beside) => {
    const button = document.querySelector(`.${side}-toggle`);
    const column = document.getElementById(`pst-${side}-sidebar`);
    const menu = document.getElementById(`pst-${side}-sidebar-modal`);
    if (!button || !column || !menu) return;

    // The theme blurs the button to put its tooltip away, and the focus could not come back to it.
    button.removeAttribute("data-bs-toggle");
    button.blur = () => {};
    menu.addEventListener("close", () => button.focus({ preventScroll: true }));

    // A link to a heading of the same page leaves the menu open, in front of the heading.
    menu.addEventListener("click", (event) => event.target.closest("a") && menu.close());

    // Those who hear the page are told what the button opens, and whether it is open. The theme's
    // menu is a dialog on a narrow window, and on a wide one a column that a class hides.
    button.title = name;
    button.setAttribute("aria-label", name);
    menu.setAttribute("aria-label", name);
    const wide = matchMedia(`(min-width: ${beside}px)`);
    const tell = () => {
      const columnShown = wide.matches && !column.classList.contains("pst-sidebar-hidden");
      button.setAttribute("aria-expanded", String(menu.open || columnShown));
    };
    const watch = new MutationObserver(tell);
    for (const element of [column, menu]) {
      watch.observe(element, { attributeFilter: ["class", "open"] });
    }
    wide.addEventListener("change", tell);
    tell();
  };

  // Earlier than the theme's scripts, which would give the buttons their tooltips.
  document.addEventListener("readystatechange", () => {
    if (document.readyState !== "interactive") return;
    mend("primary", "Contents of the book", 960);
    mend("secondary", "Contents of this page", 1200);

    // The search would read each page that it finds for a line of it. A browser forbids that to a
    // book on a disk, and reports an error for each.
    if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  });
})();
