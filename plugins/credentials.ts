// Credentials of databases: their passwords are sealed anew when the key changes, and changed by request or when they are old.
import fp from 'fastify-plugin';
import type { Config } from '../src/config.js';
import type { Envelope } from '../src/tenancy/envelope.js';
import { createReencryption, type Reencryption } from '../src/tenancy/reencryption.js';
import { createRotation, type Rotation, type RotationDeps } from '../src/tenancy/rotation.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly reencryption: Reencryption;
    readonly rotation: Rotation;
  }
}

/** ms between two looks for what is to be sealed anew, and for what a crash left half changed. */
const RESEAL_EVERY = 60_000;
const ROTATE_EVERY = 30_000;

interface Options {
  readonly config: Config;
  readonly envelope: Envelope;
  readonly afterRotationStep?: RotationDeps['afterStep'];
}

export const credentials = fp<Options>(
  async (app, { config, envelope, afterRotationStep }) => {
    const { registry, tenantLocks: locks, provisioners } = app;
    const reencryption = createReencryption({
      registry,
      keys: config.encryptionKeys,
      log: {
        done: (context, text) => {
          app.log.info(context, text);
        },
        warn: (context, text) => {
          app.log.warn(context, text);
        },
      },
    });
    const rotation = createRotation({
      registry,
      locks,
      provisioners,
      envelope,
      tell: (tenantId) => app.events.publish({ kind: 'tenant', tenantId }),
      rotateAfter: config.tenants.rotatePasswordsAfter,
      onError: (err, context) => {
        app.log.error({ err, ...context }, "could not change the password of a tenant's database role");
      },
      ...(afterRotationStep && { afterStep: afterRotationStep }),
    });
    app.decorate('reencryption', reencryption);
    app.decorate('rotation', rotation);

    app.addHook('onReady', async () => {
      // A registry that is away must not keep the service from starting: the job tries again.
      await reencryption.begin().catch((err: unknown) => {
        app.log.warn({ err }, 'could not read which keys encrypt the database passwords');
      });
      app.housekeeping.add({ name: 'reencryption', every: RESEAL_EVERY, run: (signal) => reencryption.run(signal) });
      app.housekeeping.add({ name: 'rotation', every: ROTATE_EVERY, run: (signal) => rotation.run(signal) });
    });
  },
  {
    name: 'credentials',
    fastify: '5.x',
    dependencies: ['registry', 'events', 'housekeeping', 'provisioning', 'lifecycle'],
  },
);
