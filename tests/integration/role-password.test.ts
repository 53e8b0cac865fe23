// Setting a role's password on a real server: what a late or simultaneous worker can change.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeEach, expect, it } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { setRolePassword } from '../../db/server/role-password.js';
import { scramVerifier } from '../../db/server/scram.js';
import { connectAs } from '../support/app.js';

const server = connectAs<unknown>('postgres');
const other = connectAs<unknown>('postgres');
const made: string[] = [];
let name: string;

beforeEach(async () => {
  name = `role_${randomBytes(6).toString('hex')}`;
  made.push(name);
  const verifier = sql.lit(await scramVerifier('first', 4_096));
  await sql`create role ${sql.id(name)} superuser login password ${verifier}`.execute(server.db);
});
afterAll(async () => {
  for (const role of made) await sql`drop role ${sql.id(role)}`.execute(server.db);
  await Promise.all([server.close(0), other.close(0)]);
});

async function set(password: string, from = server, confirm = async (): Promise<boolean> => true): Promise<boolean> {
  return setRolePassword(from.db, { name, verifier: await scramVerifier(password, 4_096) }, 8_000, confirm);
}

/** The passwords that the server accepts for the role. */
async function inForce(): Promise<string[]> {
  const passwords = ['first', 'second', 'third'];
  const enters = await Promise.all(
    passwords.map(async (password) => {
      const handle = connectAs<unknown>('postgres', { user: name, password });
      return sql`select 1`
        .execute(handle.db)
        .then(() => true)
        .catch(() => false)
        .finally(() => handle.close(0));
    }),
  );
  return passwords.filter((_, index) => enters[index]);
}

it('a new password stays if it is confirmed, and is rolled back otherwise', async () => {
  expect(await set('second')).toBe(true);
  expect(await inForce()).toEqual(['second']);
  expect(await set('third', server, async () => false)).toBe(false);
  expect(await inForce()).toEqual(['second']);
});

it('no other worker can change the role between the confirmation and the COMMIT', async () => {
  let late: Promise<boolean> | undefined;
  const confirm = async (): Promise<boolean> => {
    late = set('third', other);
    await sleep(300);
    return true;
  };
  expect(await set('second', server, confirm)).toBe(true);
  // It waited, and must read the row again, which has changed since.
  expect(await late).toBe(false);
  expect(await inForce()).toEqual(['second']);
});

it('a worker that is stopped after its ALTER changes nothing, and releases the role', async () => {
  let next: Promise<boolean> | undefined;
  const stopped = set('second', server, async () => {
    next = set('third', other);
    await sleep(5_000);
    return true;
  });
  await expect(stopped).rejects.toThrow(DatabaseFault);
  expect(await next).toBe(true);
  expect(await inForce()).toEqual(['third']);
});
