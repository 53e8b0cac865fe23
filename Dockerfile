# The image of the service. It contains neither the compiler nor the embedded PostgreSQL.
FROM node:24-trixie-slim AS base
WORKDIR /app
COPY package.json package-lock.json .npmrc ./

FROM base AS build
# No install script needs to run: those of the packages here only look for a prebuilt binary.
RUN npm ci --omit=optional --ignore-scripts
COPY tsconfig.json tsconfig.build.json ./
COPY src src
COPY plugins plugins
COPY routes routes
COPY db db
RUN npm run build

FROM base AS dependencies
# The embedded PostgreSQL is the optional dependency: a container uses an external server.
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM node:24-trixie-slim
ENV NODE_ENV=production \
    HOST=0.0.0.0 \
    PORT=3000 \
    METRICS_HOST=0.0.0.0
WORKDIR /app
COPY package.json ./
COPY --from=dependencies /app/node_modules node_modules
COPY --from=build /app/dist dist
# This user owns none of the files above: the service cannot change its own code.
USER node
EXPOSE 3000
# Liveness only: an unreachable registry must not restart the replica.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["node", "-e", "fetch('http://127.0.0.1:' + process.env.PORT + '/health/live').then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
# Starts Node directly: npm or a shell would not pass SIGTERM on. SIGUSR1 must not open the inspector of Node, also before the
# service has its own handler.
CMD ["node", "--disable-sigusr1", "dist/src/server.js"]
