// @ts-check
// What leads through the explorer: the story, the overview, and the tour.

import { Inside } from "./inside.js";
import { createOverview } from "./overview.js";
import { describeOrigin } from "./ready.js";
import { createStory } from "./story.js";
import { STOPS, colourWord, createTour } from "./tour.js";

/**
 * Return the guide: {story, tour, overview, tell(position, runs), show(position, view, runs), useModel(model),
 * showMaking(entry), complete(view)}; `tell` shows the story alone.
 *
 * `change(view)` changes the view, `look(target)` shows a panel of the page, and `move(k)` and
 * `vary(from, texts, then)` show another step and a variation of the first run.
 */
export function createGuide({ source, change, look, move, vary }) {
  const story = createStory();
  const inside = new Inside(source, () => overview.again());
  const overview = createOverview({ inside, change, go: look });
  let chosen = null; // the model of the next run
  let first = null; // the first run, to which the questions belong
  const actions = {
    move,
    open: (part) => change({ open: part }),
    again: (texts, then) => vary(null, texts, then),
    branchAt: (step, texts) => vary(step, texts),
  };
  const tour = createTour({ go: openStop, actions });
  story.element.querySelector(".ex-telling").append(tour.button);

  function openStop(number) {
    const stop = STOPS[number - 1];
    const step = stop?.step && first ? { step: stop.step(first) } : {};
    const word = stop?.word && first ? { word: colourWord(first.readings[0]?.words ?? []) } : {};
    change({ tour: number, ...(stop ? { open: stop.open, show: 0, with: null, ...step, ...word } : {}) });
    tour.focus();
  }

  function tell({ run, k, index }, runs) {
    story.element.hidden = false;
    story.show(run, k, describeOrigin(run, runs.specs[index], chosen));
  }

  return {
    story,
    tell,
    tour: tour.element,
    overview: overview.element,
    /** Show how far a run is that is being made; one that failed says so in its row. */
    showMaking(entry) {
      story.element.hidden = !entry || Boolean(entry.error);
      tour.button.hidden = true;
      if (!story.element.hidden) story.showMaking(entry);
    },
    useModel: (model) => (chosen = model),
    show(position, view, runs) {
      const [{ spec, run: own }] = runs.entries;
      first = own;
      tell(position, runs);
      overview.show(position, view, runs.specs);
      tour.show(own, view, Boolean(source.record && spec.texts));
    },
    /** Open the part of a stop that a link names. */
    complete(view) {
      if (view.tour && !view.open) view.open = STOPS[view.tour - 1].open;
      return view;
    },
  };
}
