// The ways to ask for leave before each call, none of which ever waits for it here.
import type { Cost, Limiter } from '@millrace/limits'

/** Does one call. */
export type Guarded = () => Promise<unknown>

const work = async (): Promise<number> => 1
/** Two for each call: one when it begins, one when it ends. */
const script = "local n = redis.call('INCRBY', KEYS[1], ARGV[1])\nredis.call('PEXPIRE', KEYS[1], ARGV[2])\nreturn n"

export const inMemory: Readonly<Record<string, () => Promise<Guarded>>> = {
  'bare await': async () => bare,
  'bare await again': async () => bare,

  async 'p-limit'() {
    const { default: pLimit } = await import('p-limit')
    const limit = pLimit(1000)
    return () => limit(work)
  },

  async 'p-queue'() {
    const { default: PQueue } = await import('p-queue')
    const queue = new PQueue({ concurrency: 1000 })
    return () => queue.add(work)
  },

  'p-queue with intervalCap': () => intervalCap(false),
  'p-queue with strict intervalCap': () => intervalCap(true),

  'limiter.run: 1 limit': async () => runs(await openLimiter(1)),
  'limiter.run: 2 limits': async () => runs(await openLimiter(2)),
  'limiter.run: 5 limits': async () => runs(await openLimiter(5)),
  'acquire and settle: 1 limit': async () => acquires(await openLimiter(1)),
  'acquire and settle: 2 limits': async () => acquires(await openLimiter(2)),
  'acquire and settle: 5 limits': async () => acquires(await openLimiter(5))
}

export const inRedis: Readonly<Record<string, (url: string) => Promise<Guarded>>> = {
  'one EVALSHA': (url) => evalsha(url, 1),
  'one EVALSHA again': (url) => evalsha(url, 1),
  'two EVALSHA': (url) => evalsha(url, 2),
  'limiter.run: 1 limit': async (url) => runs(await openLimiter(1, url)),
  'limiter.run: 2 limits': async (url) => runs(await openLimiter(2, url)),
  'limiter.run: 5 limits': async (url) => runs(await openLimiter(5, url))
}

async function bare(): Promise<unknown> {
  return await work()
}

async function intervalCap(strict: boolean): Promise<Guarded> {
  const { default: PQueue } = await import('p-queue')
  // Strict, it remembers so many times of starts, and a minute of them would be millions.
  const queue = new PQueue({ concurrency: 1000, interval: strict ? 1 : 60_000, intervalCap: strict ? 1e5 : 1e9, strict })
  return () => queue.add(work)
}

/** A hundred tenants in turn. */
function costs(): () => Cost {
  const all = Array.from({ length: 100 }, (_, index) => ({
    provider: 'openai',
    model: 'gpt-5',
    tenant: `tenant ${index}`,
    tokens: 1500
  }))
  let next = 0
  return () => all[next++ % all.length] as Cost
}

function runs(limiter: Limiter): Guarded {
  const cost = costs()
  return () => limiter.run(cost(), work)
}

function acquires(limiter: Limiter): Guarded {
  const cost = costs()
  return async () => {
    const permit = await limiter.acquire(cost())
    await work()
    permit.settle({ tokens: 1200 })
  }
}

async function openLimiter(limits: 1 | 2 | 5, url?: string): Promise<Limiter> {
  const { createLimiter } = await import('@millrace/limits')
  const { createRedisLimits } = await import('@millrace/limits/redis')
  const numbers = { concurrency: 1000, requestsPerMinute: 1e9, tokensPerMinute: 1e13 }
  const all = [
    { by: ['provider', 'model'], ...numbers },
    { by: 'tenant', ...numbers },
    { by: 'provider', ...numbers },
    { by: 'model', ...numbers },
    { by: ['provider', 'tenant'], ...numbers }
  ] as const
  const store = url === undefined ? undefined : createRedisLimits({ command: await connect(url), commandTimeoutMs: 10_000 })
  return createLimiter({ limits: all.slice(0, limits), ...(store !== undefined && { store, processes: 1 }) })
}

async function evalsha(url: string, times: number): Promise<Guarded> {
  const command = await connect(url)
  const sha = String(await command(['SCRIPT', 'LOAD', script]))
  return async () => {
    for (let call = 0; call < times; call++) await command(['EVALSHA', sha, '1', 'bench', call === 0 ? '1' : '-1', '60000'])
    return await work()
  }
}

async function connect(url: string): Promise<(args: readonly string[]) => Promise<unknown>> {
  const { createClient } = await import('@redis/client')
  const client = await createClient({ url }).connect()
  return (args) => client.sendCommand(args)
}
