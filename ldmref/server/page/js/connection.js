// Whether the server answers: the page says when it does not, and when it is back.

import { ApiError, pause } from "./api.js";
import { notifyError } from "./notify.js";

const RETRY = 1500; // milliseconds between attempts
const CHECK = 5000; // milliseconds between questions while the page is visible

/**
 * Return the capabilities of the server as soon as it answers. `status` says which server it is, or
 * that there is none; it is asked again every few seconds.
 */
export async function watchConnection(api, status) {
  let capabilities = null;
  let told = false;
  while (!capabilities) {
    try {
      capabilities = await api.capabilities();
    } catch (error) {
      status.textContent = describeProblem(error);
      status.classList.add("lost");
      if (!(error instanceof ApiError)) throw error;
      if (!error.offline && !told) notifyError(error);
      told = true;
      await pause(RETRY);
    }
  }
  showPresent(status, capabilities);
  setInterval(() => check(api, status, capabilities), CHECK);
  return capabilities;
}

async function check(api, status, capabilities) {
  if (document.hidden) return;
  try {
    await api.health();
    if (status.classList.contains("lost")) showPresent(status, capabilities);
  } catch (error) {
    status.textContent = describeProblem(error);
    status.classList.add("lost");
  }
}

function showPresent(status, capabilities) {
  const [model] = capabilities.models;
  const where = [capabilities.models.length === 1 ? model.name : "", model.backend, model.dtype];
  status.textContent = where.filter(Boolean).join(" · ");
  status.classList.remove("lost");
}

function describeProblem(error) {
  if (error.status === 401) return "A token is needed. Reload the page to enter it.";
  return error.offline ? "The server does not answer" : error.message;
}
