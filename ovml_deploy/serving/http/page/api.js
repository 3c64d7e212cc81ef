// Talks to the server: with the key it asks for, in its own words where it refuses, and again later
// where it is busy.

const KEY = "ovml-api-key";
const TRIES = 8;
// Where the page itself lies, which a reverse proxy may have put below a path: this file is page/api.js in it.
const BASE = new URL("../", import.meta.url);

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let askForKey = async () => null;
let asking = null;

/** Say how a key is asked for: a function of why, that promises a key. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Promise what the server answers at a path relative to the page, as JSON. Throws ApiError, or AbortError where `signal` says so. */
export async function call(path, { method = "GET", body, type, signal } = {}) {
  for (let tries = 1; ; tries += 1) {
    const key = sessionStorage.getItem(KEY);
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    if (type) headers["Content-Type"] = type;
    const response = await send(path, { method, body, headers, signal });
    if (response.ok) return response.status === 204 ? null : response.json();
    const problem = await problemOf(response);
    if (problem.status === 401) {
      await renewKey(key);
      tries = 0;
    } else if (problem.status === 429 && tries < TRIES) {
      await pause(1000 * (Number(response.headers.get("Retry-After")) || 1), signal);
    } else {
      throw problem;
    }
  }
}

/** Promise the answer to a question in JSON. */
export function ask(path, question, options = {}) {
  return call(path, { method: "POST", body: JSON.stringify(question), type: "application/json", ...options });
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

async function send(path, request) {
  try {
    return await fetch(new URL(path, BASE), { ...request, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer. Is it running?");
  }
}

async function problemOf(response) {
  try {
    return new ApiError(response.status, (await response.json()).error.message);
  } catch {
    return new ApiError(response.status, `The server answered with status ${response.status}.`);
  }
}

// Of requests that fail together, the first asks and the others wait.
async function renewKey(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return;
  asking ??= askForKey(refused ? "That key is not the server’s." : "").finally(() => {
    asking = null;
  });
  sessionStorage.setItem(KEY, await asking);
}
