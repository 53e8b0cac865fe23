// Every route of the service. The API is under API_PREFIX. Health and the JWK Set are at the root, because probes and verifiers
// look for them there.
import type { FastifyInstance } from 'fastify';
import type { Config } from '../src/config/index.js';
import { auditRoutes } from './tenant/audit-log.js';
import { authRoutes } from './public/auth.js';
import { driftRoutes } from './operator/schema-drift-routes.js';
import { encryptionRoutes } from './operator/encryption.js';
import { clusterRoutes } from './operator/clusters.js';
import { healthRoutes } from './public/health.js';
import { jwksRoutes } from './public/jwks.js';
import { operationRoutes } from './operator/operation-routes.js';
import { poolRoutes } from './operator/pools.js';
import { productRoutes } from './tenant/products.js';
import { roleRoutes } from './tenant/roles.js';
import { rolloutRoutes } from './operator/rollouts.js';
import { tenantLifecycleRoutes } from './operator/tenant-lifecycle.js';
import { sessionRoutes } from './public/sessions.js';
import { statusRoutes } from './operator/status.js';
import { tenantRoutes } from './operator/tenants.js';
import { usageRoutes } from './operator/usage.js';
import { userRoutes } from './tenant/users.js';

export async function routes(app: FastifyInstance, { config }: { config: Config }): Promise<void> {
  await app.register(healthRoutes);
  await app.register(jwksRoutes, { config });

  await app.register(
    async (api) => {
      await api.register(
        async (auth) => {
          await auth.register(authRoutes, { config });
          await auth.register(sessionRoutes, { config });
        },
        { prefix: '/auth' },
      );
      await api.register(tenantRoutes, { prefix: '/tenants', config });
      await api.register(tenantLifecycleRoutes, { prefix: '/tenants', config });
      await api.register(usageRoutes, { config });
      await api.register(driftRoutes);
      await api.register(clusterRoutes, { prefix: '/clusters' });
      await api.register(operationRoutes, { prefix: '/operations' });
      await api.register(rolloutRoutes, { prefix: '/rollouts' });
      await api.register(poolRoutes);
      await api.register(encryptionRoutes);
      await api.register(statusRoutes);
      await api.register(userRoutes, { prefix: '/users' });
      await api.register(roleRoutes, { prefix: '/roles' });
      await api.register(productRoutes, { prefix: '/products' });
      await api.register(auditRoutes);
    },
    { prefix: config.http.apiPrefix },
  );
}
