// Votes on their way. A vote is written down in the browser before it is sent and crossed out when
// the server has acknowledged it, so that it survives a dead network, a reload and a closed tab. Its
// idempotency key makes sending it again harmless.

import { insist } from "./api.js";
import { forget, names, recall, remember, uuid } from "./storage.js";

const VOTE = "vote.";
const LARGEST_KEEPALIVE = 60_000; // bytes that browsers let outlive a page

/** Write a vote down: {trial, token, key, body}. */
export function keep(trial, token, body) {
  const vote = { trial, token, key: uuid(), body };
  remember(VOTE + trial, JSON.stringify(vote));
  return vote;
}

/** Votes of a session that were given and never acknowledged. */
export function kept(token) {
  return names().filter((name) => name.startsWith(VOTE))
    .map((name) => JSON.parse(recall(name))).filter((vote) => vote.token === token);
}

/** Cross out everything of a session. */
export function discard(token) {
  kept(token).forEach((vote) => forget(VOTE + vote.trial));
}

/** Send a vote until it is acknowledged or refused; the server's answer. */
export async function deliver(api, vote, ontrouble) {
  const keepalive = JSON.stringify(vote.body).length < LARGEST_KEEPALIVE;
  const options = { headers: { "Idempotency-Key": vote.key }, keepalive };
  const send = () => api.post(`trials/${vote.trial}/vote`, vote.body, options);
  try {
    return await insist(send, ontrouble);
  } finally {
    forget(VOTE + vote.trial); // either way there is nothing left to send
  }
}
