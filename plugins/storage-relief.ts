// Storage relief: tenants beyond their storage limit get back the space of what they delete, without anybody asking.
import fp from 'fastify-plugin';
import type { Config } from '../src/config.js';
import { createStorageRelief } from '../src/tenancy/storage-relief.js';

/** Between two looks (ms) at how large databases are. */
const EVERY = 60_000;

export const storageRelief = fp<{ config: Config }>(
  async (app, { config }) => {
    const run = createStorageRelief({
      registry: app.registry,
      provisioners: app.provisioners,
      defaults: config.tenants.limits,
      onError: (err, context) => {
        app.log.warn({ err, ...context }, "could not free the space of deleted rows in a tenant's database");
      },
    });
    app.housekeeping.add({ name: 'storage-relief', every: EVERY, run });
  },
  { name: 'storage-relief', fastify: '5.x', dependencies: ['registry', 'housekeeping', 'provisioning'] },
);
