// @ts-check
// What the samplers of a grid cost: equal steps are not equal work.

import { counted } from "../dom.js";

/**
 * Return a sentence about the evaluations of the model in a step, "" if they are equal for all.
 *
 * @param {({name: string, values: any[]} | null)[]} axes
 * @param {{name: string, aliases: string[], evaluations_per_step: number}[]} samplers as in the capabilities
 */
export function describeCosts(axes, samplers) {
  const names = axes.find((axis) => axis?.name === "sampler")?.values ?? [];
  const costs = new Map();
  for (const name of names) {
    const cost = samplers.find((one) => one.name === name || one.aliases.includes(name))?.evaluations_per_step;
    if (cost) costs.set(cost, [...(costs.get(cost) ?? []), name]);
  }
  if (costs.size < 2) return "";
  const parts = [...costs].sort(([a], [b]) => a - b).map(([cost, of]) => `${of.join(", ")}: ${counted(cost, "time")}`);
  return `Equal steps are not equal work. In each step the model is evaluated by ${parts.join("; ")}. With few steps, a sampler of higher order may be further from the converged image than a simple one.`;
}
