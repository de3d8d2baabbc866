// @ts-check
// A finished image made larger: the same settings with a second pass, whose size and strength are chosen.

import { h, newId } from "./dom.js";
import { readNumber } from "./numbers.js";
import { valuesOfImage } from "./record_prompts.js";

const FACTORS = ["1.5", "2"];
const STRENGTH = "0.7";

/** Return the control for an image, whose model `capabilities` describe; null where there is no second pass. */
export function createEnlarge(capabilities, entry, run) {
  const { models, modes } = capabilities;
  const model = models.find(({ name }) => name === entry.request.model) ?? models[0];
  const offered = "upscale" in (modes[entry.params.mode]?.schema.properties ?? {}) && !model.unused?.includes("upscale");
  if (!offered || entry.params.upscale) return null;
  const factor = h("select", { "aria-label": "Factor" }, FACTORS.map((one) => h("option", { value: one }, `× ${one}`)));
  factor.value = FACTORS[FACTORS.length - 1];
  const strength = h("input", { id: newId("strength"), type: "text", inputmode: "decimal", class: "numbers", autocomplete: "off", value: STRENGTH });
  const error = h("p", { id: newId("error"), class: "error", hidden: true });
  strength.setAttribute("aria-describedby", error.id);
  const form = h(
    "form",
    { class: "row", novalidate: true },
    factor,
    h("label", { for: strength.id }, "Strength of the change"),
    strength,
    h("button", { type: "submit" }, "Make it larger"),
    error,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = Number(readNumber(strength.value));
    const right = chosen > 0 && chosen <= 1;
    error.textContent = right ? "" : `The strength must be above 0 and at most 1, not “${strength.value}”.`;
    error.hidden = right;
    strength.setAttribute("aria-invalid", String(!right));
    if (!right) return strength.focus();
    run({ ...entry.request, values: { ...valuesOfImage(entry), upscale: Number(factor.value), upscale_strength: chosen } });
  });
  return h("details", { class: "enlarge" }, h("summary", {}, "Enlarge"), form);
}
