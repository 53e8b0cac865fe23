// Authentication: sets the principal of the request from the access token. Runs after the rate limit, before any database query.
import jwt, { type FastifyJWTOptions } from '@fastify/jwt';
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { RouteAccess, RouteEntry, Scope } from '../../src/auth/route-access.js';
import { signingKey, type TokenKey } from '../../src/auth/keyring.js';
import {
  createTokens,
  EXPIRED,
  type JwtKey,
  type Principal,
  type Tokens,
  type VerifiedToken,
} from '../../src/auth/tokens.js';
import type { Config } from '../../src/config/index.js';
import { AppError } from '../../src/errors.js';

declare module 'fastify' {
  // Every route declares its access; the check in onReady enforces this.
  interface FastifyContextConfig {
    access?: RouteAccess;
  }
  interface FastifyInstance {
    readonly tokens: Tokens;
    /** Every route with its access, in the order of registration. */
    readonly routeTable: readonly RouteEntry[];
  }
  interface FastifyRequest {
    /** The caller of the request; null on a public route. */
    principal: Principal | null;
    /** When the caller proved the password, in seconds since 1970; undefined if the token does not say. */
    signedInAt: number | undefined;
    /** The tenant that the token names. Throws if there is none, so that no code continues without a tenant. */
    readonly tenantId: string;
    /** The user that the token names. Throws if there is none. */
    readonly userId: string;
  }
}

export const authentication = fp<{ config: Config['auth']; clock?: () => number }>(
  async (app, { config, clock }) => {
    const keys: JwtKey[] = [];
    for (const key of config.keys) {
      const { kid, alg } = key;
      // Each key has its own scope, with a signer and a verifier for this key only. So no code chooses a key by the algorithm
      // that a token names, and `tokens` is the only access to tokens.
      await app.register(async (scope) => {
        await scope.register(jwt, jwtOptions(key, config));
        keys.push({
          kid,
          alg,
          sign: (claims) => scope.jwt.sign(claims),
          verify: (token) => scope.jwt.verify<object>(token),
        });
      });
    }
    const signer = keys.find(({ kid }) => kid === signingKey(config.keys)?.kid);
    if (!signer) throw new Error('there is no key that signs');
    const tokens = createTokens(signer, keys, clock);
    app.decorate('tokens', tokens);

    app.decorateRequest('principal', null);
    app.decorateRequest('signedInAt', undefined);
    app.decorateRequest('tenantId', { getter: tenantIdOf });
    app.decorateRequest('userId', { getter: userIdOf });

    const routes: Partial<RouteEntry>[] = [];
    app.addHook('onRoute', (route) => {
      for (const method of [route.method].flat()) {
        // Read on each access, because hooks of inner scopes may still add it.
        routes.push({
          method,
          url: route.url,
          get access() {
            return route.config?.access;
          },
        } as Partial<RouteEntry>);
      }
    });
    app.addHook('onReady', async () => {
      const bare = routes
        .filter(({ access }) => !isWhole(access))
        .map(({ method, url }) => `${method ?? ''} ${url ?? ''}`);
      if (bare.length > 0) throw new Error(`routes without config.access or its permission: ${bare.join(', ')}`);
    });
    const plain = (url = ''): string => url.replace(/\/$/, '');
    // The HEAD of a GET has the same access, and is left out.
    const ofGet = ({ method, url }: Partial<RouteEntry>): boolean =>
      method === 'HEAD' && routes.some((route) => route.method === 'GET' && plain(route.url) === plain(url));
    app.decorate('routeTable', { getter: () => routes.filter((route) => !ofGet(route)) as readonly RouteEntry[] });

    const count = (reason: string): void => {
      app.engine.instruments.accessTokensRefused.inc({ reason });
    };
    const verify = (request: FastifyRequest): VerifiedToken => {
      const token = bearerToken(request);
      if (token === undefined) {
        count('missing');
        throw new AppError('unauthenticated', { detail: 'Send an access token: Authorization: Bearer …' });
      }
      try {
        return tokens.read(token);
      } catch (error) {
        const expired = error instanceof AppError && error.cause === EXPIRED;
        count(expired ? 'expired' : 'invalid');
        throw error;
      }
    };
    app.steps.token = (request) => {
      const scope = request.routeOptions.config.access?.scope;
      if (scope === 'public' || request.is404) return undefined;
      const { principal, signedInAt } = verify(request);
      // Before the refusal, whose line and event then name the caller.
      request.principal = principal;
      request.signedInAt = signedInAt;
      if (!scope || !admitted[scope].includes(principal.kind)) {
        count('wrong-kind');
        throw new AppError('forbidden');
      }
      return undefined;
    };
  },
  { name: 'authentication', fastify: '5.x', dependencies: ['rate-limit'] },
);

/** A public key has no signer. The library takes keys as text, and a secret as bytes. */
function jwtOptions({ kid, alg, signs, verifies }: TokenKey, config: Config['auth']): FastifyJWTOptions {
  return {
    secret:
      verifies.type === 'secret'
        ? verifies.export()
        : {
            public: verifies.export({ type: 'spki', format: 'pem' }),
            ...(signs && { private: signs.export({ type: 'pkcs8', format: 'pem' }) }),
          },
    sign: { algorithm: alg, kid, iss: config.issuer, aud: config.audience, expiresIn: config.accessTokenTtl },
    verify: {
      algorithms: [alg],
      allowedIss: config.issuer,
      allowedAud: config.audience,
      requiredClaims: ['iss', 'aud', 'sub', 'typ', 'sid', 'jti', 'iat', 'exp'],
      // The library reads the clock of the process. src/auth/tokens.ts checks the time.
      ignoreExpiration: true,
      ignoreNotBefore: true,
    },
  };
}

const admitted: Readonly<Record<Exclude<Scope, 'public'>, readonly Principal['kind'][]>> = {
  tenant: ['user'],
  operator: ['operator'],
  platform: ['operator', 'user'],
};

/** Whether a route declares who may call it. The compiler checks the same, if it knows the type of the route's options. */
function isWhole(access: Partial<RouteAccess> | undefined): boolean {
  if (access?.scope === 'tenant' || access?.scope === 'platform') return access.permission !== undefined;
  return access !== undefined;
}

/** RFC 6750, section 2.1. Undefined if there is none. */
function bearerToken(request: FastifyRequest): string | undefined {
  const header = request.headers.authorization ?? '';
  return /^Bearer /i.test(header) ? header.slice(7) : undefined;
}

function tenantIdOf(this: FastifyRequest): string {
  if (this.principal?.kind !== 'user') throw new Error('this request belongs to no tenant');
  return this.principal.tenantId;
}

function userIdOf(this: FastifyRequest): string {
  if (this.principal?.kind !== 'user') throw new Error('this request belongs to no user');
  return this.principal.userId;
}
