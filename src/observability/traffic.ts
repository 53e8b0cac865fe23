// What the HTTP server does right now, as plain numbers: the plugin that counts requests writes them, and the metrics read them.

export interface Traffic {
  /** Requests that have arrived and are not answered yet. */
  inFlight: number;
  /** Requests whose client left before the answer. */
  aborted: number;
  /** Whether requests are refused because there are too many. */
  overloaded: boolean;
}

export function createTraffic(): Traffic {
  return { inFlight: 0, aborted: 0, overloaded: false };
}
