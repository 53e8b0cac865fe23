# The image of the service: built with the compiler, shipped without it and without the embedded PostgreSQL.
FROM node:24-trixie-slim AS base
WORKDIR /app
COPY package.json package-lock.json .npmrc ./

FROM base AS build
# No install script runs: nothing that is needed here has one that does more than look for a prebuilt binary.
RUN npm ci --omit=optional --ignore-scripts
COPY tsconfig.json tsconfig.build.json ./
COPY src src
COPY plugins plugins
COPY routes routes
COPY db db
RUN npm run build

FROM base AS dependencies
# The embedded PostgreSQL is the optional dependency: a container has a server of its own.
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM node:24-trixie-slim
ENV NODE_ENV=production \
    HOST=0.0.0.0 \
    PORT=3000
WORKDIR /app
COPY package.json ./
COPY --from=dependencies /app/node_modules node_modules
COPY --from=build /app/dist dist
# Owns nothing of the above: what runs cannot change itself.
USER node
EXPOSE 3000
# Liveness only: a replica whose registry is away must not be restarted for that.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["node", "-e", "fetch('http://127.0.0.1:' + process.env.PORT + '/health/live').then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
# Node itself and no npm or shell before it, which would keep SIGTERM from it.
CMD ["node", "dist/src/server.js"]
