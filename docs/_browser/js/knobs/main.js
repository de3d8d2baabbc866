// The widgets of the course: each `<div class="ldmref-knob" data-knob="NAME">` becomes an interactive one.

const MODULES = {
  explorer: "./explorer_link.js",
  guidance: "./guidance.js",
  interpolation: "./interpolation.js",
  joint: "./joint.js",
  kl: "./kl.js",
  model: "./generate.js",
  noise: "./noise.js",
  posterior: "./posterior.js",
  samplers: "./samplers.js",
  schedules: "./schedules.js",
};

/** The names of all widgets. */
export const KNOBS = Object.keys(MODULES);

for (const place of document.querySelectorAll(".ldmref-knob[data-knob]")) {
  build(place).catch((error) => {
    place.textContent = `This widget cannot be shown: ${error.message}.`;
  });
}

async function build(place) {
  const name = place.dataset.knob;
  if (!Object.hasOwn(MODULES, name)) throw new Error(`there is no widget "${name}", only ${KNOBS.join(", ")}`);
  const { create } = await import(MODULES[name]);
  await create(place);
}
