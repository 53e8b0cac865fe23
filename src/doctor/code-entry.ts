// What a code of `tenantry doctor` says.

export interface CodeEntry {
  /** - `error`: something is not served, not safe, or will stop. - `warning`: it should be known. */
  readonly severity: 'error' | 'warning';
  /** What it means, as a sentence. */
  readonly about: string;
  /** What to do, as a sentence. */
  readonly todo: string;
  /** What --repair does, as a part of a sentence; null if a person must act. */
  readonly mends: string | null;
}
