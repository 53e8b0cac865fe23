// Every route of the service. The API stands under API_PREFIX; health stands at the root, where probes look for it.
import type { FastifyInstance } from 'fastify';
import type { Config } from '../src/config.js';
import { authRoutes } from './auth.js';
import { healthRoutes } from './health.js';
import { poolRoutes } from './pools.js';
import { productRoutes } from './products.js';
import { tenantRoutes } from './tenants.js';
import { userRoutes } from './users.js';

export async function routes(app: FastifyInstance, { config }: { config: Config }): Promise<void> {
  await app.register(healthRoutes);

  await app.register(
    async (api) => {
      await api.register(authRoutes, { prefix: '/auth', config });
      await api.register(tenantRoutes, { prefix: '/tenants', config });
      await api.register(poolRoutes);
      await api.register(userRoutes, { prefix: '/users' });
      await api.register(productRoutes, { prefix: '/products' });
    },
    { prefix: config.http.apiPrefix },
  );
}
