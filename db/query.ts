// One statement on a client of pg, without what pg does for each promise that it makes itself: two more, and a stack trace.
import type { PostgresQueryResult } from 'kysely';
import type pg from 'pg';

/** @throws what pg hands to its callback */
export function ask<R>(
  client: pg.ClientBase,
  name: string | undefined,
  text: string,
  values: readonly unknown[],
): Promise<PostgresQueryResult<R>> {
  return new Promise((resolve, reject) => {
    // pg changes nothing in `values`. A name that is undefined is none.
    const answer = (error: Error | null, result: unknown): void => {
      if (error) reject(error);
      else resolve(result as PostgresQueryResult<R>);
    };
    client.query({ name, text, values: values as unknown[] } as pg.QueryConfig, answer);
  });
}
