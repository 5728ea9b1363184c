import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type SpawnedProvider, spawnScriptedProvider } from '@millrace/testkit'
import { type Balancer, startBalancer } from './balancer.ts'
import { type Replica, startReplica } from './replica.ts'

/** What the provider lets through in a second, and what the gateways together allow themselves. */
export const perSecond = { provider: 44, gateways: 40 }

export interface TopologyOptions {
  readonly redisURL: string
  /** @default 3 */
  readonly replicas?: number
}

/** What `deploy/compose.yaml` describes, as processes of this machine: gateways, a balancer, a provider; Redis is given. */
export interface Topology extends AsyncDisposable {
  readonly replicas: readonly Replica[]
  readonly balancer: Balancer
  readonly provider: SpawnedProvider
  /** The operator's. */
  readonly token: string
  readonly model: string
  /** Ends the gateways in order and gives their exit codes; null is one that was killed. */
  close(): Promise<readonly (number | null)[]>
}

/**
 * Starts gateways on one Redis behind one balancer. All of them end with this process.
 *
 * @throws {Error} when one does not start
 *
 * @example
 * await using topology = await startTopology({ redisURL: 'redis://127.0.0.1:6379' })
 * console.log(topology.balancer.url)
 */
export async function startTopology({ redisURL, replicas: count = 3 }: TopologyOptions): Promise<Topology> {
  const opened: AsyncDisposable[] = []
  try {
    const provider = await spawnScriptedProvider({
      tokensPerSecond: 60,
      firstTokenMs: 200,
      rateLimit: { requests: perSecond.provider, perMs: 1000 }
    })
    opened.push(provider)
    const model = 'scripted-large'
    const folder = await mkdtemp(join(tmpdir(), 'millrace-topology-'))
    opened.push({ [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) })
    const configFile = join(folder, 'gateway.json')
    const config = {
      providers: [{ name: 'scripted', api: 'openai', baseURL: provider.url, apiKeyEnv: 'OPENAI_API_KEY' }],
      model,
      limits: [{ requestsPerMinute: perSecond.gateways * 60, windowMs: 1000 }]
    }
    await writeFile(configFile, JSON.stringify(config))
    const token = randomBytes(32).toString('hex')
    const env = {
      HOST: '127.0.0.1',
      MILLRACE_TOKEN: token,
      MILLRACE_CONFIG: configFile,
      MILLRACE_PROCESSES: String(count),
      OPENAI_API_KEY: 'scripted',
      REDIS_URL: redisURL
    }
    const replicas = await startAll(count, env, opened)
    const balancer = await startBalancer({ targets: replicas.map(({ url }) => url) })
    opened.push(balancer)

    async function close(): Promise<readonly (number | null)[]> {
      const codes = await Promise.all(replicas.map((replica) => replica.terminate()))
      await closeAll(opened)
      return codes
    }
    let closing: Promise<readonly (number | null)[]> | undefined
    const topology: Topology = {
      replicas,
      balancer,
      provider,
      token,
      model,
      close() {
        closing ??= close()
        return closing
      },
      async [Symbol.asyncDispose]() {
        await topology.close()
      }
    }
    return topology
  } catch (error) {
    await closeAll(opened)
    throw error
  }
}

async function startAll(count: number, env: Readonly<Record<string, string>>, opened: AsyncDisposable[]): Promise<Replica[]> {
  const settled = await Promise.allSettled(Array.from({ length: count }, () => startReplica(env)))
  const replicas = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  for (const replica of replicas) opened.push({ [Symbol.asyncDispose]: () => replica.kill() })
  // They are alike: the first failure tells it all.
  for (const one of settled) if (one.status === 'rejected') throw one.reason
  return replicas
}

async function closeAll(opened: AsyncDisposable[]): Promise<void> {
  for (const resource of opened.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
}
