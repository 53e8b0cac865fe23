// src/tenants/tenant-ids.ts: the names of everything that belongs to a tenant.
import { randomInt } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  isTenantId,
  newDatabaseName,
  newDatabasePassword,
  newTenantId,
  slugify,
} from '../../src/tenants/tenant-ids.js';

describe('a slug', () => {
  it.each([
    ['Acme GmbH & Co.', 'acme-gmbh-co'],
    ['Wayne Enterprises', 'wayne-enterprises'],
    ['Café Zoë Ångström', 'cafe-zoe-angstrom'],
    ['  --- 7 Eleven --- ', '7-eleven'],
    ["O'Reilly", 'o-reilly'],
    ['ＷＩＤＥ', 'wide'],
    ['a_b.c/d', 'a-b-c-d'],
  ])('of %j is %j', (name, slug) => {
    expect(slugify(name)).toBe(slug);
  });

  it.each(['', '---', '日本語', '🦇', '\u0301'])('of %j is empty, because no character can be kept', (name) => {
    expect(slugify(name)).toBe('');
  });

  it('has 63 characters at most, and does not end with a dash after a cut', () => {
    expect(slugify('x'.repeat(200))).toBe('x'.repeat(63));
    expect(slugify(`${'x'.repeat(62)} tail`)).toBe('x'.repeat(62));
  });

  it('is empty or accepted by the registry, whatever the name', () => {
    for (let round = 0; round < 2_000; round += 1) {
      const points = Array.from({ length: randomInt(80) }, () =>
        randomInt(2) === 0 ? randomInt(0x20, 0x180) : randomInt(0xd800),
      );
      const name = String.fromCodePoint(...points);
      expect(slugify(name), JSON.stringify(name)).toMatch(/^(?:[a-z0-9](?:-?[a-z0-9]){0,62})?$/);
      expect(slugify(name).length, JSON.stringify(name)).toBeLessThanOrEqual(63);
    }
  });

  it('of a slug is the same slug', () => {
    for (const slug of ['acme', 'a-b-c', '7-eleven']) expect(slugify(slug)).toBe(slug);
  });
});

describe('a tenant id', () => {
  it('is a new UUIDv7 each time, in order of creation', () => {
    const ids = Array.from({ length: 100 }, newTenantId);
    expect(new Set(ids).size).toBe(100);
    expect([...ids].sort()).toEqual(ids);
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });

  it('is accepted in one spelling only', () => {
    const id = newTenantId();
    expect(isTenantId(id)).toBe(true);
    const others = [
      `{${id}}`,
      id.replaceAll('-', ''),
      `${id} `,
      ` ${id}`,
      `${id}\n`,
      `urn:uuid:${id}`,
      id.slice(1),
      '',
      'acme',
    ];
    for (const text of others) expect(isTenantId(text), text).toBe(false);
    expect(isTenantId('01890A5D-AC96-774B-BCCE-B302099A8057')).toBe(false);
  });
});

describe('the access to a tenant database', () => {
  it('has a name that reveals nothing about the tenant and needs no quotes', () => {
    const names = Array.from({ length: 100 }, newDatabaseName);
    expect(new Set(names).size).toBe(100);
    // PostgreSQL cuts names that are longer than 63 bytes.
    for (const name of names) expect(name).toMatch(/^tn_[0-9a-f]{32}$/);
  });

  it('has a password of 256 bits in printable ASCII', () => {
    const passwords = Array.from({ length: 100 }, newDatabasePassword);
    expect(new Set(passwords).size).toBe(100);
    for (const password of passwords) {
      expect(password).toMatch(/^[\w-]+$/);
      expect(Buffer.from(password, 'base64url')).toHaveLength(32);
    }
  });
});
