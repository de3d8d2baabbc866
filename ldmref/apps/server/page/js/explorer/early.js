// @ts-check
// What the explorer needs from the server, asked for before its other scripts have arrived.

import { fetchReady } from "./ready.js";
import { loadStyle } from "./tools.js";

export const ready = fetchReady();
export const style = loadStyle("explorer.css");
