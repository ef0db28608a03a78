// Reading the API: the token, problem documents, and the difference between "no" and "not there".

const TOKEN = "insurance-fund-token";

/** An answer that says what is wrong; `status` is 0 where no answer came at all. */
export class Trouble extends Error {
  constructor(status, title, detail) {
    super(detail ? `${title}: ${detail}` : title);
    this.status = status;
  }
}

let asking = null;

/** Set by the page: asks for a token, told what was wrong with the last one, and returns it. */
export const tokens = { ask: () => Promise.reject(new Error("nobody to ask")) };

function askOnce(why) {
  asking ??= tokens.ask(why).finally(() => {
    asking = null;
  });
  return asking;
}

/** Fetch from our own origin with the token, asking for one as long as it is wanted. */
export async function request(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { ...options.headers };
    if (token !== null) {
      headers.Authorization = `Bearer ${token}`;
    }
    let response;
    try {
      response = await fetch(path, { ...options, headers, credentials: "omit" });
    } catch (error) {
      throw options.signal?.aborted ? error : new Trouble(0, "The service does not answer");
    }
    if (response.status === 401) {
      // Another request may have asked meanwhile.
      if (token === sessionStorage.getItem(TOKEN)) {
        sessionStorage.setItem(TOKEN, await askOnce(token === null ? "" : "That token is wrong."));
      }
      continue;
    }
    if (!response.ok) {
      throw await troubleOf(response);
    }
    return response;
  }
}

async function troubleOf(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // Whoever stands in between may answer something else.
  }
  const title = problem.title ?? `The service answered ${response.status}`;
  return new Trouble(response.status, title, problem.detail ?? "");
}

/** Read a JSON answer. */
export async function read(path, parameters = {}) {
  const wanted = Object.entries(parameters).filter(([, value]) => value !== null);
  const query = new URLSearchParams(wanted).toString();
  const response = await request(query ? `${path}?${query}` : path);
  return response.json();
}
