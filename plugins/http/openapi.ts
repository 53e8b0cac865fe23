// OpenAPI 3.1 from the routes' zod schemas and access, at /docs/json, with a page to try the API at /docs. The document is made
// once, when every route is known. `/` leads to both.
import { createHash } from 'node:crypto';
import swagger from '@fastify/swagger';
import swaggerUi, { type FastifySwaggerUiOptions } from '@fastify/swagger-ui';
import fp from 'fastify-plugin';
import { ApiDocument } from '../../src/http/openapi/api-document.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Describes a tag of operations. @param description a sentence */
    describeTag(name: string, description: string): void;
  }
}

const TITLE = 'Tenantry';

/** The page loads its own scripts, and has inline styles. It calls this service and no other. */
const PAGE_POLICY =
  "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; frame-ancestors 'none'";

const ICON =
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#1f4e79"/><path d="M4 4h8v2H9v6H7V6H4z" fill="#fff"/></svg>';

const page: FastifySwaggerUiOptions = {
  routePrefix: '/docs',
  staticCSP: PAGE_POLICY,
  logo: { type: 'image/svg+xml', content: ICON, href: '/docs' },
  theme: {
    title: `${TITLE} API`,
    favicon: [{ filename: 'icon.svg', rel: 'icon', type: 'image/svg+xml', sizes: 'any', content: ICON }],
  },
  uiConfig: {
    // Without the bar of Swagger, in which another document could be loaded.
    layout: 'BaseLayout',
    // The browser keeps the token until the reader signs out on the page.
    persistAuthorization: true,
    tryItOutEnabled: true,
    displayRequestDuration: true,
    defaultModelsExpandDepth: 0,
  },
};

/** The document as it is sent. */
interface Served {
  readonly type: string;
  readonly text: string;
  readonly etag: string;
}

export const openapi = fp(
  async (app) => {
    const api = new ApiDocument();
    app.decorate('describeTag', (name: string, description: string) => {
      api.describeTag(name, description);
    });
    await app.register(swagger, {
      openapi: {
        openapi: '3.1.0',
        info: {
          title: TITLE,
          version: '1',
          description:
            'A REST service that gives every tenant its own PostgreSQL database. Sign in at POST /auth/login, then send the access token in the header `Authorization: Bearer <token>`.',
        },
        servers: [{ url: '/', description: 'The service that sent this document.' }],
        components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' } } },
      },
      transform: ({ route, url }) =>
        // The routes of the documentation are not part of it, and neither are those of CORS.
        url.startsWith('/docs') || route.schema?.hide
          ? { schema: { hide: true }, url }
          : { schema: api.operationOf(route), url },
      transformObject: (made) => api.complete('openapiObject' in made ? made.openapiObject : {}),
    });

    const served: { json?: Served; yaml?: Served } = {};
    app.addHook('onReady', (done) => {
      served.json = toServe('application/json; charset=utf-8', JSON.stringify(app.swagger()));
      done();
    });
    /** Readers rarely ask for YAML, and it takes several times as long to make: so it is made for the first of them. */
    const documentAt = (url: string | undefined): Served | undefined => {
      if (url === '/docs/yaml') return (served.yaml ??= toServe('application/yaml', app.swagger({ yaml: true })));
      return url === '/docs/json' ? served.json : undefined;
    };
    await app.register(async (docs) => {
      docs.addHook('onRoute', (route) => {
        route.config = { ...route.config, access: { scope: 'public' } };
      });
      docs.addHook('onRequest', (request, reply, done) => {
        // The same for every reader until the next build. Only the redirection depends on the reader.
        if (request.routeOptions.url !== '/') reply.header('cache-control', 'public, no-cache');
        done();
      });
      await docs.register(swaggerUi, {
        ...page,
        uiHooks: {
          // After the rate limit, and instead of the handler, which would write the document again for each request.
          preHandler: (request, reply, done) => {
            const document = documentAt(request.routeOptions.url);
            if (!document) {
              done();
              return;
            }
            void reply.type(document.type).header('etag', document.etag).send(document.text);
          },
        },
      });
      docs.get('/', { schema: { hide: true } }, (request, reply) => {
        // A program gets the description that it can read.
        const isBrowser = request.headers.accept?.includes('text/html') ?? false;
        return reply.redirect(isBrowser ? '/docs' : '/docs/json');
      });
    });
  },
  { name: 'openapi', fastify: '5.x', dependencies: ['authentication', 'schemas', 'etags'] },
);

function toServe(type: string, text: string): Served {
  return { type, text, etag: `"${createHash('sha256').update(text).digest('base64url').slice(0, 22)}"` };
}
