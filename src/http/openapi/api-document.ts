// The OpenAPI document. @fastify/swagger collects the routes and writes paths and parameters. This file adds what operations share
// by reference: schemas, errors and headers.
import type { RouteOptions } from 'fastify';
import { z } from 'zod';
import { SchemaComponents, type Json } from './json-schemas.js';
import { ErrorAnswers, headersOf, successOf } from './route-answers.js';
import { answerHeaders, headerParameters } from './shared-parts.js';

/** The documented parts of a route's schema. */
interface RouteSchema {
  readonly operationId?: string;
  readonly summary?: string;
  readonly tags?: readonly string[];
  readonly params?: z.ZodType;
  readonly querystring?: z.ZodType;
  readonly body?: z.ZodType;
}

interface Paths {
  readonly paths?: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components?: object;
}

interface Operation {
  readonly operationId: string;
  readonly parameters?: readonly Json[];
  readonly responses: Json;
}

export class ApiDocument {
  private readonly schemas = new SchemaComponents();
  private readonly tags = new Map<string, string>();
  /** By operationId. */
  private readonly routes = new Map<string, RouteOptions>();

  /** @param description a sentence about the operations that have this tag */
  describeTag(name: string, description: string): void {
    this.tags.set(name, description);
  }

  /**
   * What @fastify/swagger needs to know about a route.
   *
   * @throws Error if the route does not say what the document needs
   */
  operationOf(route: RouteOptions): Json {
    const { operationId, summary, tags = [], params, querystring, body } = (route.schema ?? {}) as RouteSchema;
    const demand = (holds: boolean, what: string): void => {
      if (!holds) throw new Error(`${String(route.method)} ${route.url}: its schema needs ${what}`);
    };
    demand(operationId !== undefined, 'an operationId');
    demand(tags.length === 1 && this.tags.has(tags[0] ?? ''), 'one tag, which app.describeTag describes');
    demand(!body || bodyOf(body) !== undefined, 'a body with a name and an example: .meta({ id, examples })');
    const same = this.routes.get(operationId ?? '');
    demand(
      !same || same === route,
      `an operationId of its own: ${String(same?.method)} ${String(same?.url)} is ${String(operationId)}`,
    );
    this.routes.set(operationId ?? '', route);
    return {
      operationId,
      summary,
      tags,
      ...accessOf(route),
      ...(params && { params: this.schemas.of(params, 'input') }),
      ...(querystring && { querystring: this.schemas.of(querystring, 'input') }),
    };
  }

  /** The document. @param made by @fastify/swagger, from all operations */
  complete(made: object): Json {
    const { paths = {}, components } = made as Paths;
    const errors = new ErrorAnswers([...this.routes.values()], this.schemas);
    const complete = (operation: Operation): Operation => {
      const route = this.routes.get(operation.operationId);
      if (!route) throw new Error(`${operation.operationId} is the operation of no route`);
      const body = bodyOf((route.schema as RouteSchema).body);
      const parameters = [
        ...(operation.parameters ?? []),
        ...headersOf(route).map((name) => ({ $ref: `#/components/parameters/${name}` })),
      ];
      const { responses: _none, ...described } = operation;
      return {
        ...described,
        ...(parameters.length > 0 && { parameters }),
        ...(body && {
          requestBody: {
            required: true,
            content: { 'application/json': { schema: this.schemas.of(body.schema, 'input'), example: body.example } },
          },
        }),
        responses: { ...successOf(route, this.schemas), ...errors.of(route) },
      };
    };
    const completed = mapValues(paths, (operations) => mapValues(operations, complete));
    const responses = errors.components;
    return {
      ...made,
      tags: [...this.tags].map(([name, description]) => ({ name, description })),
      components: {
        ...components,
        headers: answerHeaders,
        parameters: headerParameters,
        responses,
        schemas: this.schemas.named,
      },
      paths: completed,
    };
  }
}

/** A body with its example; undefined if it lacks a name or an example. */
function bodyOf(schema: z.ZodType | undefined): { schema: z.ZodType; example: unknown } | undefined {
  const { id, examples } = (schema && z.globalRegistry.get(schema)) ?? {};
  const [example] = (examples ?? []) as readonly unknown[];
  return schema && id !== undefined && example !== undefined ? { schema, example } : undefined;
}

/** Who may call a route, as words and as a requirement. */
function accessOf({ config }: RouteOptions): Json {
  const access = config?.access;
  if (!access || access.scope === 'public') return { security: [] };
  const who = {
    tenant: 'users of the tenant',
    operator: 'operators',
    platform: 'operators, and for users within their own tenant',
  }[access.scope];
  const { permission, orSelf, recent } = access;
  const needed = permission === undefined || permission === 'self' ? '' : ` with the permission \`${permission}\``;
  return {
    security: [{ bearer: [] }],
    description: [
      `For ${who}${needed}${orSelf ? ', or for the user that the path names' : ''}.`,
      ...(recent === undefined ? [] : [`Needs a recent sign-in${recent === true ? '' : ` ${recent}`}.`]),
    ].join(' '),
    ...(permission && { 'x-permission': permission }),
  };
}

function mapValues<Value, Made>(
  values: Readonly<Record<string, Value>>,
  make: (value: Value) => Made,
): Record<string, Made> {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [key, make(value)]));
}
