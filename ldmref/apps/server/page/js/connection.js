// @ts-check
// Whether the server answers: the page says when it does not, and when it is back.

import { ApiError, pause } from "./api.js";
import { notifyError, tellBack } from "./notify.js";

const RETRY = 1500; // milliseconds between attempts while the server does not answer
const CHECK = 5000; // and while it does, if the page is visible

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
  keepChecking(api, status, capabilities);
  return capabilities;
}

async function keepChecking(api, status, capabilities) {
  const show = (error) => {
    if (status.classList.contains("lost")) return;
    status.textContent = describeProblem(error);
    status.classList.add("lost");
  };
  api.onOffline(show);
  for (;;) {
    await pause(status.classList.contains("lost") ? RETRY : CHECK);
    if (document.hidden) continue;
    try {
      await api.health();
      if (!status.classList.contains("lost")) continue;
      showPresent(status, capabilities);
      tellBack();
    } catch (error) {
      show(error);
    }
  }
}

function showPresent(status, capabilities) {
  const [model] = capabilities.models;
  const where = [capabilities.models.length === 1 ? model.name : "", model.backend, model.dtype];
  status.textContent = where.filter(Boolean).join(" · ");
  status.title = model.backend_reason ? `${model.backend}: ${model.backend_reason}` : "";
  status.classList.remove("lost");
}

function describeProblem(error) {
  if (error.status === 401) return "A token is needed. Reload the page to enter it.";
  return error.offline ? "The server does not answer" : error.message;
}
