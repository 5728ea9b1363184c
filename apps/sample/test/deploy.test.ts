import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { requirePackagedFile, requireProgram } from '@millrace/testkit'
import { createPrices } from '@millrace/tokens'
import { Ajv2019 } from 'ajv/dist/2019.js'
import { afterAll, describe, expect, test } from 'vitest'
import { type Config, readConfig } from '../src/config.ts'
import { dashboard } from './dashboard-file.ts'
import { type Compose, filled, folder, text, variablesOf, yaml } from './deploy-files.ts'

const run = promisify(execFile)
const temporary = await mkdtemp(join(tmpdir(), 'millrace-deploy-'))
afterAll(() => rm(temporary, { recursive: true, force: true }))

const compose = await yaml<Compose>('compose.yaml')
const { services } = compose
const schema = await requirePackagedFile('docker-compose', 'usr/lib/python3/dist-packages/compose/config/compose_spec.json')
const promtool = await requireProgram({
  name: 'promtool',
  variable: 'PROMTOOL',
  packages: ['prometheus'],
  folder: 'prometheus',
  cure: 'install Prometheus or set PROMTOOL to the path of its promtool'
})

const secrets = { MILLRACE_TOKEN: 'a-token-of-more-than-16-letters', GRAFANA_PASSWORD: 'secret' }

/** `.env` as it is copied, with the required ones filled in: a scripted provider answers. */
const scripted = { ...(await variablesOf('.env.example')), ...secrets }

/**
 * The gateway's configuration as Compose would make it of `.env` and, where that names no other file, of `gateway.env`. A file
 * with more in it stands in for the one that is mounted.
 */
async function gatewayConfig(
  env: Readonly<Record<string, string>>,
  own: Readonly<Record<string, string>> = {},
  mounted = ''
): Promise<{ readonly config: Config; readonly asked: ReadonlySet<string>; readonly set: readonly string[] }> {
  const { environment = {}, env_file: envFile = '', volumes: [mount = ''] = [] } = services.gateway ?? {}
  const name = filled(envFile, env)
  const file = name === './gateway.env' ? own : await variablesOf(name)
  const given = Object.entries(environment).map(([key, value]) => [key, filled(String(value), env)])
  const all = { HOST: '0.0.0.0', PORT: '8787', ...file, ...Object.fromEntries(given) }
  const [path = ''] = filled(mount, env).split(':')
  const asked = new Set<string>()
  const watched = new Proxy(
    { ...all, MILLRACE_CONFIG: mounted || join(folder, path) },
    { get: (target: Record<string, string>, key) => (asked.add(String(key)), target[String(key)]) }
  )
  return { config: readConfig(watched), asked, set: given.map(([key = '']) => key) }
}

const caddy = await requireProgram({
  name: 'caddy',
  variable: 'CADDY',
  packages: ['caddy'],
  folder: 'caddy',
  trial: ['version'],
  cure: 'install one (Debian: apt-get install caddy, macOS: brew install caddy) or set CADDY to its path'
})

describe('compose.yaml', () => {
  test.skipIf(schema.path === undefined)('satisfies the schema of the Compose specification', async () => {
    const check = await composeCheck()
    expect([check(compose), check.errors]).toEqual([true, null])
    expect(check({ ...compose, services: { ...services, gateway: { ...services.gateway, imaeg: 'x' } } })).toBe(false)
    expect(check({ ...compose, services: { ...services, gateway: { ...services.gateway, stop_grace_period: 30 } } })).toBe(false)
  })

  test('mounts files that are there, and names networks, volumes and services that it declares', () => {
    for (const service of Object.values(services)) {
      for (const mount of service.volumes ?? []) {
        const [source = ''] = filled(mount, {}).split(':')
        if (source.startsWith('.')) expect(existsSync(join(folder, source)), source).toBe(true)
        else expect(compose.volumes).toHaveProperty(source)
      }
      for (const network of service.networks) expect(compose.networks).toHaveProperty(network)
      for (const [name, { condition }] of Object.entries(service.depends_on ?? {})) {
        if (condition === 'service_healthy') expect(services[name]?.healthcheck, name).toBeDefined()
      }
    }
  })

  test('listens on this machine only, from pinned images', () => {
    for (const service of Object.values(services)) {
      for (const port of service.ports ?? []) expect(port).toMatch(/^127\.0\.0\.1:/)
      if (service.image !== 'millrace-sample') expect(service.image).toMatch(/^[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*$/)
    }
  })

  test('does not start without a token, which it then asks for by name', async () => {
    await expect(gatewayConfig({})).rejects.toThrow(/^MILLRACE_TOKEN: set it in \.env/)
    expect(() => filled(String(services.grafana?.environment?.GF_SECURITY_ADMIN_PASSWORD), {})).toThrow('GRAFANA_PASSWORD')
  })

  test('is a configuration that the gateway takes, with .env as it is copied: a scripted provider answers', async () => {
    const { config } = await gatewayConfig(scripted)
    expect(config).toMatchObject({
      host: '0.0.0.0',
      operatorToken: secrets.MILLRACE_TOKEN,
      processes: 3,
      redisURL: 'redis://redis:6379',
      graceMs: 20_000,
      providers: [{ name: 'scripted', baseURL: 'http://provider:8080/v1', allowInsecure: true }]
    })
  })

  test('asks only the providers whose keys there are', async () => {
    for (const [variable, name] of [
      ['OPENAI_API_KEY', 'openai'],
      ['ANTHROPIC_API_KEY', 'anthropic']
    ] as const) {
      const { config } = await gatewayConfig(secrets, { ...(await variablesOf('gateway.env.example')), [variable]: 'sk-canary' })
      expect(config.providers.map((provider) => [provider.name, provider.apiKey])).toEqual([[name, 'sk-canary']])
      expect(config.faults).toBe(false)
      // A budget in money refuses what has no price.
      expect(createPrices().priceOf(config.model), config.model).not.toBeNull()
    }
  })

  test('gives the gateways every variable of gateway.env, tenants with their tokens too', async () => {
    const file = join(temporary, 'gateway.json')
    const tenants = [{ name: 'website', tokenEnv: 'WEBSITE_TOKEN' }]
    await writeFile(file, JSON.stringify({ ...JSON.parse(await text('gateway.json')), tenants }))
    const own = { OPENAI_API_KEY: 'sk-canary', WEBSITE_TOKEN: 'another-token-of-16-letters', MILLRACE_TOKEN: 'not this one' }
    const { config } = await gatewayConfig(secrets, own, file)
    expect(config.tenants).toEqual([{ name: 'website', tokens: [own.WEBSITE_TOKEN] }])
    expect(config.operatorToken).toBe(secrets.MILLRACE_TOKEN)
    for (const ignored of ['.gitignore', 'Dockerfile.dockerignore'])
      expect(await text(ignored)).toMatch(/^(\*\*\/)?gateway\.env$/m)
  })

  test('starts the scripted provider where it is asked, and without it needs nothing of it', () => {
    expect(scripted).toMatchObject({ COMPOSE_PROFILES: services.provider?.profiles?.join() })
    // Compose refuses a service that waits for one of a profile that is off.
    for (const [name, service] of Object.entries(services)) {
      for (const other of Object.keys(service.depends_on ?? {}))
        expect([name, services[other]?.profiles]).toEqual([name, undefined])
    }
  })

  test('builds each image once, and fetches none that it builds', () => {
    const own = Object.values(services).filter(({ image }) => image === 'millrace-sample')
    expect(own.filter(({ build }) => build !== undefined)).toHaveLength(1)
    for (const { build, pull_policy: pull } of own) expect(build === undefined ? pull : 'never').toBe('never')
  })

  test('lets all who call without a tenant take as much as there is: their one address is the balancer', async () => {
    for (const env of [scripted, secrets]) {
      const { config } = await gatewayConfig(env, { OPENAI_API_KEY: 'sk-canary' })
      expect(config.maxRequestsPerClient).toBe(config.maxRequests)
    }
  })

  test('sets no variable of the gateway that the gateway does not ask for', async () => {
    const asked = new Set<string>()
    for (const env of [scripted, secrets]) {
      const { asked: some, set } = await gatewayConfig(env, { OPENAI_API_KEY: 'sk-canary' })
      for (const name of some) asked.add(name)
      expect(set.filter((name) => !name.startsWith('OTEL_') && !asked.has(name))).toEqual([])
    }
  })

  test('gives the gateways longer to end than they take', () => {
    const grace = Number(services.gateway?.environment?.MILLRACE_GRACE_MS)
    expect(seconds(services.gateway?.stop_grace_period) * 1000).toBeGreaterThan(grace)
    // The balancer must not cut off what the gateways still write.
    expect(seconds(services.balancer?.stop_grace_period) * 1000).toBeGreaterThan(grace)
  })

  test('starts the provider with options that it has', async () => {
    const [, program = '', ...options] = services.provider?.command ?? []
    const source = fileURLToPath(new URL('../../../packages/testkit/src/provider-main.ts', import.meta.url))
    expect(program).toBe('node_modules/@millrace/testkit/dist/provider-main.js')
    const local = options.map((option) => option.replace('=0.0.0.0', '=127.0.0.1').replace('=8080', '=0'))
    const child = spawn(process.execPath, [source, ...local], { stdio: ['pipe', 'pipe', 'inherit'] })
    const ended = once(child, 'exit')
    const [line] = await Promise.race([once(child.stdout, 'data'), ended.then(() => ['ended'])])
    expect(String(line)).toMatch(/^\{"url":"http:/)
    child.stdin.end()
    expect(await ended).toEqual([0, null])
  })

  test('keeps what Redis holds', () => {
    expect(services.redis?.command?.join(' ')).toContain('--maxmemory-policy noeviction')
  })
})

test('the image has the versions of Node and pnpm that the repository names', async () => {
  const root = JSON.parse(await readFile(new URL('../../../package.json', import.meta.url), 'utf8'))
  const dockerfile = await text('Dockerfile')
  const images = [...dockerfile.matchAll(/^FROM (\S+)/gm)].map(([, image]) => image)
  expect(new Set(images)).toEqual(new Set([`node:${root.devDependencies.node}-slim`]))
  expect(dockerfile).toContain(root.packageManager)
})

test('the image installs again only where a manifest or the lockfile changed', async () => {
  const dockerfile = await text('Dockerfile')
  const copied = dockerfile.slice(0, dockerfile.indexOf('RUN pnpm install'))
  expect(copied).not.toMatch(/^COPY \. /m)
  const root = new URL('../../../', import.meta.url)
  for (const name of await readdir(new URL('packages/', root))) {
    if (!existsSync(new URL(`packages/${name}/package.json`, root))) continue
    expect(copied).toContain(`COPY packages/${name}/package.json packages/${name}/\n`)
  }
})

test.skipIf(promtool.program === undefined)('Prometheus takes its configuration and our rules', async () => {
  const { path, env } = promtool.program as NonNullable<typeof promtool.program>
  const token = join(temporary, 'token')
  await writeFile(token, secrets.MILLRACE_TOKEN)
  const rules = fileURLToPath(new URL('../../../packages/telemetry/dashboards/', import.meta.url))
  const file = join(temporary, 'prometheus.yml')
  // Where the container has them.
  await writeFile(
    file,
    (await text('prometheus.yml')).replaceAll('/etc/prometheus/', rules).replace('/tmp/millrace-token', token)
  )
  const { stdout } = await run(path, ['check', 'config', file], { env })
  expect(stdout).toMatch(/SUCCESS: \d+ rules found/)
  await writeFile(file, `${await readFile(file, 'utf8')}\nscrape_intervall: 5s\n`)
  await expect(run(path, ['check', 'config', file], { env })).rejects.toThrow('scrape_intervall')
})

test('Prometheus reads what Compose mounts, and finds the gateways by the name that Compose gives them', async () => {
  const { rule_files: rules, scrape_configs: jobs } = await yaml<{
    rule_files: string[]
    scrape_configs: { dns_sd_configs: { names: string[]; port: number }[]; authorization: { credentials_file: string } }[]
  }>('prometheus.yml')
  const prometheus = services.prometheus
  for (const file of rules) expect(prometheus?.volumes?.join()).toContain(`:${file}:`)
  const [job] = jobs
  expect(Object.keys(services)).toEqual(expect.arrayContaining(job?.dns_sd_configs.flatMap(({ names }) => names) ?? ['none']))
  expect(job?.dns_sd_configs[0]?.port).toBe(8787)
  expect(prometheus?.command?.join()).toContain(`> ${job?.authorization.credentials_file} `)
})

test('Grafana has the data source that the dashboard asks for, and the dashboard where it looks', async () => {
  const { datasources } = await yaml<{ datasources: { type: string; url: string; isDefault: boolean }[] }>(
    'grafana/provisioning/datasources/prometheus.yaml'
  )
  const { providers } = await yaml<{ providers: { options: { path: string } }[] }>(
    'grafana/provisioning/dashboards/millrace.yaml'
  )
  const chosen = dashboard.templating.list.find(({ type }) => type === 'datasource') as { query?: string } | undefined
  expect(datasources).toMatchObject([{ type: chosen?.query, isDefault: true, url: 'http://prometheus:9090' }])
  expect(services.grafana?.volumes?.join()).toContain(`:${providers[0]?.options.path}/millrace-grafana.json:`)
})

test('the collector takes spans where the gateways send them, and names only what it declares', async () => {
  const collector = await yaml<
    Record<'receivers' | 'processors' | 'exporters', Record<string, unknown>> & {
      service: { pipelines: Record<string, Record<'receivers' | 'processors' | 'exporters', string[]>> }
    }
  >('otel-collector.yaml')
  for (const pipeline of Object.values(collector.service.pipelines)) {
    for (const kind of ['receivers', 'processors', 'exporters'] as const) {
      for (const name of pipeline[kind]) expect(collector[kind]).toHaveProperty(name)
    }
  }
  const endpoint = services.gateway?.environment?.OTEL_EXPORTER_OTLP_ENDPOINT
  expect(collector).toHaveProperty('receivers.otlp.protocols.http.endpoint', `0.0.0.0:${String(endpoint).split(':').at(-1)}`)
})

describe.skipIf(caddy.program === undefined)('Caddy', () => {
  const { path, env } = caddy.program ?? { path: '', env: {} }
  // It keeps state of its own there.
  const clean = { ...env, HOME: temporary, XDG_CONFIG_HOME: temporary, XDG_DATA_HOME: temporary }

  test('takes its configuration', async () => {
    await run(path, ['validate', '--adapter', 'caddyfile', '--config', `${folder}Caddyfile`], { env: clean })
  })

  test('deals requests out, asks the next one where a connection is refused, and passes events on as they come', async () => {
    const { promise: second, resolve: sendSecond } = Promise.withResolvers<void>()
    const events = (name: string): Promise<TestServer> =>
      listen(async (_, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream', 'x-name': name }).write('data: 1\n\n')
        await second
        response.end('data: 2\n\n')
      })
    await using a = await events('a')
    await using b = await events('b')
    await using gone = await events('gone')
    await gone[Symbol.asyncDispose]()
    await using own = await listen(() => {})
    await own[Symbol.asyncDispose]()
    const file = join(temporary, 'Caddyfile')
    // The name of the replicas is known inside Compose only.
    const here = (await text('Caddyfile'))
      .replace(/dynamic a \{[^}]*\}/, `to ${[a, b, gone].map(({ port }) => `127.0.0.1:${port}`).join(' ')}`)
      .replace(':8787 {', `http://127.0.0.1:${own.port} {`)
    expect(here).not.toContain('gateway')
    await writeFile(file, here)
    const child = spawn(path, ['run', '--adapter', 'caddyfile', '--config', file], {
      env: clean,
      stdio: ['ignore', 'ignore', 'pipe']
    })
    const ended = once(child, 'exit')
    try {
      child.stderr.resume()
      const url = `http://127.0.0.1:${own.port}`
      const response = await untilThere(url)
      const names = [response.headers.get('x-name')]
      const reader = (response.body as ReadableStream<Uint8Array>).getReader()
      expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe('data: 1\n\n')
      for (let index = 0; index < 5; index++) names.push((await fetch(url)).headers.get('x-name'))
      expect(new Set(names)).toEqual(new Set(['a', 'b']))
      sendSecond()
      expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe('data: 2\n\n')
    } finally {
      child.kill('SIGKILL')
      await ended
    }
  })
})

interface TestServer extends AsyncDisposable {
  readonly port: number
}

async function listen(listener: RequestListener): Promise<TestServer> {
  const server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.close().closeAllConnections()
    }
  }
}

async function untilThere(url: string): Promise<Response> {
  for (let tries = 0; ; tries++) {
    try {
      return await fetch(url)
    } catch (error) {
      if (tries === 100) throw error
      await delay(50)
    }
  }
}

async function composeCheck(): Promise<ReturnType<Ajv2019['compile']>> {
  const found = JSON.parse(await readFile(schema.path as string, 'utf8'), (key, value: unknown) =>
    // The `id` of an older draft; `$schema` is the one that Ajv has.
    (key === 'id' && typeof value === 'string') || key === '$schema' ? undefined : value
  )
  const ajv = new Ajv2019({ strict: false, allErrors: true })
  ajv.addFormat('duration', /^(?:\d+(?:\.\d+)?(?:us|ms|s|m|h))+$/)
  ajv.addFormat('ports', /^(?:[\d.]+:)?[\d-]+:[\d-]+$|^\d+$|^127\.0\.0\.1:\$\{\w+:-\d+\}:\d+$/)
  ajv.addFormat('expose', /^\d+(?:-\d+)?$/)
  ajv.addFormat('subnet_ip_address', true)
  return ajv.compile(found as object)
}

function seconds(duration = ''): number {
  return Number(/^(\d+)s$/.exec(duration)?.[1] ?? Number.NaN)
}
