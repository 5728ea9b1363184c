// A process of its own: asks the same question as often as it is told, and reports what it got.
import { type Cache, createCache, withCache } from '@millrace/cache'
import { createRedis } from '@millrace/cache/redis'
import { type Completion, collect, isMillraceError, type Provider, pipe } from '@millrace/core'
import { createRedisLog } from '@millrace/streaming/redis'
import { createTransport } from '@millrace/transport'
import { openai } from '../src/openai.ts'

/** What the parent asks for. */
export interface Order {
  readonly baseURL: string
  readonly redisUrl: string
  readonly question: string
  readonly askers: number
  readonly stream: boolean
  /** Tells the parent as soon as the first text is here. */
  readonly announce?: boolean
  /** Leaves after so many milliseconds. */
  readonly leaveAfterMs?: number
  readonly options?: object
}

export interface Outcome {
  readonly texts: readonly string[]
  readonly errors: readonly string[]
  readonly states: readonly unknown[]
  readonly billed: number
  readonly stats: ReturnType<Cache['stats']>
}

let cache: Cache | undefined
let provider: Provider | undefined

async function run({ baseURL, redisUrl, question, askers, stream, announce, leaveAfterMs, options }: Order): Promise<Outcome> {
  if (provider === undefined) {
    // Four processes on two cores: what is measured here is who calls, not how long a lookup takes.
    const redis = createRedis({ url: redisUrl, commandTimeoutMs: 5000 })
    while (!redis.ready) await new Promise((resolve) => setTimeout(resolve, 5))
    const log = createRedisLog({ command: redis.command })
    cache = createCache({ store: redis, scope: 'test', log, leaseMs: 2000, storeTimeoutMs: 5000, ...options })
    const transport = createTransport()
    const wire = openai({ apiKey: 'k', baseURL })
    provider = pipe(wire.connect(transport.send), withCache(cache, { origin: 'test' }))
  }
  const ask = provider
  const texts: string[] = []
  const errors: string[] = []
  const states: unknown[] = []
  let billed = 0
  let told = announce !== true
  async function one(): Promise<void> {
    const controller = new AbortController()
    const timer = leaveAfterMs === undefined ? undefined : setTimeout(() => controller.abort('left'), leaveAfterMs)
    try {
      const chunks = ask({ model: 'm', messages: [{ role: 'user', content: question }] }, { stream, signal: controller.signal })
      const completion: Completion = await collect({
        async *[Symbol.asyncIterator]() {
          for await (const chunk of chunks) {
            if (!told && chunk.type === 'text' && chunk.text !== '') {
              told = true
              process.send?.('text')
            }
            yield chunk
          }
        }
      })
      texts.push(completion.text)
      states.push(completion.notes.cache?.state)
      if (completion.usage?.billed === true) billed++
    } catch (error) {
      errors.push(isMillraceError(error) ? error.code : String(error))
    } finally {
      clearTimeout(timer)
    }
  }
  await Promise.all(Array.from({ length: askers }, one))
  return { texts, errors, states, billed, stats: (cache as Cache).stats() }
}

process.on('message', (order) => void run(order as Order).then((outcome) => process.send?.(outcome)))
process.once('disconnect', () => process.exit())
process.send?.('ready')
