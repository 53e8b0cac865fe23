// db/server/scram.ts: verifiers against RFC 5802 as written out here, and against PostgreSQL itself.
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { scramVerifier } from '../../db/server/scram.js';
import { asSuperuser, connectAs, createRegistry } from '../support/app.js';

const hmac = (key: Buffer, data: Buffer | string): Buffer => createHmac('sha256', key).update(data).digest();
const sha256 = (data: Buffer): Buffer => createHash('sha256').update(data).digest();
const xor = (one: Buffer, other: Buffer): Buffer =>
  Buffer.from(one.map((byte, index) => byte ^ other.readUInt8(index)));

/** Hi(str, salt, i) of RFC 5802, section 2.2. */
function hi(password: string, salt: Buffer, iterations: number): Buffer {
  let round = hmac(Buffer.from(password), Buffer.concat([salt, Buffer.from([0, 0, 0, 1])]));
  let result = round;
  for (let i = 1; i < iterations; i += 1) {
    round = hmac(Buffer.from(password), round);
    result = xor(result, round);
  }
  return result;
}

interface Verifier {
  readonly iterations: number;
  readonly salt: Buffer;
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
}

function parse(verifier: string): Verifier {
  const match = /^SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$/.exec(verifier);
  if (!match) throw new Error(`not a verifier: ${verifier}`);
  const [, iterations, ...parts] = match;
  const [salt, storedKey, serverKey] = parts.map((part) => Buffer.from(part, 'base64')) as [Buffer, Buffer, Buffer];
  return { iterations: Number(iterations), salt, storedKey, serverKey };
}

describe('the RFC as written out in this file', () => {
  it('gives the example of RFC 7677, section 3', () => {
    const salted = hi('pencil', Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64'), 4_096);
    const message =
      'n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0';
    const clientKey = hmac(salted, 'Client Key');
    const proof = xor(clientKey, hmac(sha256(clientKey), message));
    expect(proof.toString('base64')).toBe('dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=');
    const signature = hmac(hmac(salted, 'Server Key'), message);
    expect(signature.toString('base64')).toBe('6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=');
  });
});

describe('a verifier', () => {
  it.each([
    ['pencil', 4_096],
    ['pencil', 1],
    ['with spaces, "quotes" and $:', 3],
    ['~'.repeat(200), 2],
  ])('of %j with %d iterations contains the keys of RFC 5802', async (password, iterations) => {
    const made = parse(await scramVerifier(password, iterations));
    const salted = hi(password, made.salt, iterations);
    expect(made.iterations).toBe(iterations);
    expect(made.storedKey).toEqual(sha256(hmac(salted, 'Client Key')));
    expect(made.serverKey).toEqual(hmac(salted, 'Server Key'));
  });

  it('has its own salt of 16 bytes', async () => {
    const verifiers = await Promise.all(Array.from({ length: 50 }, () => scramVerifier('pencil', 1)));
    const salts = verifiers.map((verifier) => parse(verifier).salt);
    expect(new Set(salts.map((salt) => salt.length))).toEqual(new Set([16]));
    expect(new Set(salts.map((salt) => salt.toString('hex'))).size).toBe(50);
  });

  it('does not contain the password', async () => {
    const verifier = await scramVerifier('canary', 1);
    expect(verifier).not.toContain('canary');
    expect(verifier).not.toContain(Buffer.from('canary').toString('base64'));
  });

  it.each(['', 'pässword', 'line\nbreak', 'nul\0', '🗝'])(
    'is not made of %j: text that needs SASLprep would not match the text of clients',
    async (password) => {
      await expect(scramVerifier(password, 1)).rejects.toThrow(TypeError);
    },
  );
});

describe('PostgreSQL', () => {
  const roles: string[] = [];
  let database = '';
  beforeAll(async () => {
    database = await createRegistry();
    // These roles have no right on any object.
    await asSuperuser('postgres', (db) => sql`grant connect on database ${sql.id(database)} to public`.execute(db));
  });
  afterAll(() =>
    asSuperuser('postgres', async (db) => {
      for (const role of roles) await sql`drop role ${sql.id(role)}`.execute(db);
    }),
  );

  /** Signs in and returns the role, or the SQLSTATE of the refusal. */
  async function signIn(user: string, password: string): Promise<string> {
    const handle = connectAs<unknown>(database, { user, password });
    try {
      const { rows } = await sql<{ user: string }>`select current_user as user`.execute(handle.db);
      return rows[0]?.user ?? '';
    } catch (error) {
      return error instanceof Error && 'reason' in error ? String(error.reason) : String(error);
    } finally {
      await handle.close(0);
    }
  }

  it.each([1, 4_096])(
    'signs in a client with the right password for a verifier of %d iterations, and no other client',
    async (iterations) => {
      const role = `scram_${randomBytes(6).toString('hex')}`;
      roles.push(role);
      const password = 'pa$$ word:"with" \'everything\'';
      const verifier = await scramVerifier(password, iterations);
      await asSuperuser('postgres', async (db) => {
        await sql`create role ${sql.id(role)} login password ${sql.lit(verifier)}`.execute(db);
        const { rows } = await sql`select rolpassword as stored from pg_authid where rolname = ${role}`.execute(db);
        // Stored as a verifier, not as a password to be hashed.
        expect(rows).toEqual([{ stored: verifier }]);
      });
      expect(await signIn(role, password)).toBe(role);
      const INVALID_PASSWORD = '28P01';
      expect(await signIn(role, `${password} `)).toBe(INVALID_PASSWORD);
      expect(await signIn(role, verifier)).toBe(INVALID_PASSWORD);
    },
  );
});
