// @ts-check
// What leads through the explorer: the story, the overview, and the tour.

import { Inside } from "./inside.js";
import { createOverview } from "./overview.js";
import { describeOrigin } from "./ready.js";
import { createStory } from "./story.js";
import { createTour } from "./tour.js";
import { STOPS, colourPlace, firstStep } from "./tour_stops.js";

/**
 * Return the guide: {story, tour, overview, tell(position, view, runs), show(position, view, runs),
 * showDecoded(run, name, k, image), useModel(model), showMaking(entry), showAnswering(), openStop(number),
 * isAnswer(entry), complete(view)}; `tell` shows the story alone.
 *
 * `change(view)` changes the view, `look(target)` shows a panel of the page, `stop()` ends the
 * animation, and `vary(from, texts, then)` makes a variation of the first run, or two, and returns the
 * entries that are compared. `decoded(run, name, k)` is a decoded image, if there is one.
 */
export function createGuide({ source, change, look, stop, vary, decoded }) {
  const story = createStory();
  const inside = new Inside(source, () => overview.again());
  const overview = createOverview({ inside, change, go: look });
  let chosen = null; // the model of the next run
  let first = null; // the first run, to which the questions belong
  const move = (k, part) => {
    stop();
    change({ show: 0, with: null, step: k, ...(part ? { open: part } : {}) });
  };
  const tour = createTour({ go: openStop, actions: { move, vary }, decoded });
  story.element.querySelector(".ex-telling").append(tour.button);

  function openStop(number) {
    stop();
    const place = STOPS[number - 1];
    const step = place && first ? { step: firstStep(number, first) } : {};
    const words = first?.readings[0]?.words ?? [];
    const word = place?.word && words.length ? { word: words[colourPlace(words)] } : {};
    change({ tour: number, ...(place ? { open: place.open, show: 0, with: null, by: "step", ...step, ...word } : {}) });
    tour.focus();
  }

  function tell({ run, k, index }, view, runs) {
    story.element.hidden = view.tour > 0; // the tour has pictures of its own
    story.show(run, k, describeOrigin(run, runs.specs[index], chosen));
  }

  return {
    story,
    tell,
    tour: tour.element,
    overview: overview.element,
    openStop,
    isAnswer: tour.isAnswer,
    /** Show how far a run is that is being made; one that failed says so in its row. */
    showMaking(entry) {
      story.element.hidden = !entry || Boolean(entry.error);
      tour.button.hidden = true;
      if (!story.element.hidden) story.showMaking(entry);
    },
    showAnswering: tour.showMaking,
    showDecoded(run, name, k, image) {
      story.showDecoded(run, name, k, image);
      tour.showDecoded(run);
    },
    useModel: (model) => (chosen = model),
    show(position, view, runs) {
      const [{ spec, run: own }] = runs.entries;
      first = own;
      tell(position, view, runs);
      overview.show(position, view, runs.specs);
      const canRun = Boolean(source.record && spec.texts);
      tour.show(runs, view, { canRun, model: canRun ? source.modelOf(own?.served).served : null });
    },
    /** Open the part of a stop that a link names. */
    complete(view) {
      if (view.tour && !view.open) view.open = STOPS[view.tour - 1].open;
      return view;
    },
  };
}
