// Every route of the service. The API stands under API_PREFIX; health and the JWK Set stand at the root, where probes and
// verifiers look for them.
import type { FastifyInstance } from 'fastify';
import type { Config } from '../src/config/index.js';
import { auditRoutes } from './audit.js';
import { authRoutes } from './auth.js';
import { encryptionRoutes } from './encryption.js';
import { clusterRoutes } from './clusters.js';
import { healthRoutes } from './health.js';
import { jwksRoutes } from './jwks.js';
import { poolRoutes } from './pools.js';
import { productRoutes } from './products.js';
import { roleRoutes } from './roles.js';
import { tenantLifecycleRoutes } from './tenant-lifecycle.js';
import { sessionRoutes } from './sessions.js';
import { tenantRoutes } from './tenants.js';
import { usageRoutes } from './usage.js';
import { userRoutes } from './users.js';

export async function routes(app: FastifyInstance, { config }: { config: Config }): Promise<void> {
  await app.register(healthRoutes);
  await app.register(jwksRoutes, { config });

  await app.register(
    async (api) => {
      await api.register(
        async (auth) => {
          // An answer that holds a token, or describes an account, must not be cached.
          auth.addHook('onRequest', (_request, reply, done) => {
            reply.header('cache-control', 'no-store');
            done();
          });
          await auth.register(authRoutes, { config });
          await auth.register(sessionRoutes, { config });
        },
        { prefix: '/auth' },
      );
      await api.register(tenantRoutes, { prefix: '/tenants', config });
      await api.register(tenantLifecycleRoutes, { prefix: '/tenants', config });
      await api.register(usageRoutes, { config });
      await api.register(clusterRoutes, { prefix: '/clusters' });
      await api.register(poolRoutes);
      await api.register(encryptionRoutes);
      await api.register(userRoutes, { prefix: '/users' });
      await api.register(roleRoutes, { prefix: '/roles' });
      await api.register(productRoutes, { prefix: '/products' });
      await api.register(auditRoutes);
    },
    { prefix: config.http.apiPrefix },
  );
}
