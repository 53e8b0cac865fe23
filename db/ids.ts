// Identifiers made by the service, so that an INSERT needs no round trip to learn its key.
import { v7 } from 'uuid';

/** A new UUIDv7 (RFC 9562): unique, and ordered by time, which keeps primary key indexes dense. */
export function newId(): string {
  return v7();
}
