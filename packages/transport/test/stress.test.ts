import { getEventListeners } from 'node:events'
import { type HttpBody, isMillraceError } from '@millrace/core'
import { probeLeaks, type Random, seededRandom } from '@millrace/testkit'
import { createTransport, type Transport } from '@millrace/transport'
import { expect, test } from 'vitest'
import { type Act, answerOf, eventsOf, type Plan } from './stress-plan.ts'
import { counted, startServer, watchTimers } from './under-fault.ts'

const calls = Number(process.env.MILLRACE_STRESS_CALLS ?? 10_000)
const seed = Number(process.env.MILLRACE_STRESS_SEED ?? 20_261_123)
const atATime = 100
const totalMs = 3000

type Fault = Act['fault']
/** Of a hundred attempts. Stalls cost time, and are few. */
const faults: readonly (readonly [Fault, number])[] = [
  ['none', 45],
  ['drip', 5],
  ['gzip', 6],
  ['close-delimited', 6],
  ['reset', 12],
  ['end', 8],
  ['status', 10],
  ['error-event', 4],
  ['stall', 2],
  ['silence', 2]
]

function faultAt(point: number): Fault {
  let left = point * faults.reduce((sum, [, share]) => sum + share, 0)
  for (const [fault, share] of faults) if ((left -= share) < 0) return fault
  return 'none'
}

function planOf(number: number, random: Random): Plan {
  const kind = random() < 0.5 ? 'json' : 'stream'
  const act = (): Act => ({
    fault: faultAt(random()),
    at: random(),
    hintMs: random() < 0.5 ? Math.floor(random() * 20) : undefined,
    idleMs: random() < 0.3 ? Math.floor(random() * 30) : undefined
  })
  // Now and then longer than what is held back.
  const words = random() < 0.02 ? 8000 : 1 + Math.floor(random() * 40)
  return {
    id: `${number}-${random().toString(36).slice(2)}`,
    kind,
    words,
    acts: [act(), act(), act()],
    stream: kind === 'stream'
  }
}

/** What the caller does; `abort` and `leave` come after so many milliseconds or batches. */
interface Manner {
  readonly door: 'send' | 'fetch'
  readonly abortMs: number | undefined
  readonly leave: 'no' | 'break' | 'cancel' | 'unread'
}

function mannerOf(random: Random): Manner {
  const leaves = random()
  return {
    door: random() < 0.5 ? 'send' : 'fetch',
    abortMs: random() < 0.15 ? Math.floor(random() * 40) : undefined,
    leave: leaves < 0.04 ? 'break' : leaves < 0.08 ? 'cancel' : leaves < 0.1 ? 'unread' : 'no'
  }
}

const timeouts = { firstChunkMs: 200, idleMs: 200, headersMs: 200, connectMs: 2000, totalMs }

/** The whole answer, or what was seen of it by a caller who left. */
interface Seen {
  readonly status: number
  readonly text: string
  readonly isWhole: boolean
}

async function sendIt(transport: Transport, url: string, body: string, { leave }: Manner, signal: AbortSignal): Promise<Seen> {
  const response = await transport.send({
    method: 'POST',
    url,
    headers: { 'content-type': 'application/json' },
    body,
    signal,
    timeouts
  })
  const { status, refusal } = response
  return readIt(response.body, refusal ?? status, leave)
}

async function readIt(body: HttpBody, status: number, leave: Manner['leave']): Promise<Seen> {
  if (leave === 'unread') body.cancel()
  if (leave === 'no') return { status, text: await body.text(), isWhole: true }
  let text = ''
  if (leave !== 'unread') {
    const decoder = new TextDecoder()
    for await (const batch of body) {
      for (const piece of batch) text += decoder.decode(piece, { stream: true })
      if (leave === 'break') break
      body.cancel()
      break
    }
  }
  return { status, text, isWhole: false }
}

async function fetchIt(transport: Transport, url: string, body: string, { leave }: Manner, signal: AbortSignal): Promise<Seen> {
  const response = await transport.fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body, signal })
  const { status } = response
  if (leave === 'no') return { status, text: await response.text(), isWhole: true }
  let text = ''
  if (leave === 'break') {
    for await (const piece of response.body ?? []) {
      text = new TextDecoder().decode(piece)
      break
    }
  } else await response.body?.cancel()
  return { status, text, isWhole: false }
}

test(
  `${calls} calls, ${atATime} at a time, against a faulty server (seed ${seed}): no hang, no wrong answer, nothing left`,
  async () => {
    const leaks = probeLeaks()
    using timers = watchTimers()
    const server = await startServer(new URL('./stress-main.ts', import.meta.url), [String(seed)])
    const random = seededRandom(seed)
    const transport = createTransport({
      maxConnections: 64,
      breaker: false,
      timeouts,
      retry: { baseMs: 1, maxMs: 10, budgetReserve: Number.POSITIVE_INFINITY }
    })
    const shared = new AbortController().signal
    const unhandled: unknown[] = []
    const listen = (reason: unknown): number => unhandled.push(reason)
    process.on('unhandledRejection', listen)
    const warnings: Error[] = []
    const warn = (warning: Error): number => warnings.push(warning)
    process.on('warning', warn)
    const ends: Record<string, number> = {}
    let slowestMs = 0

    async function call(number: number): Promise<string> {
      const plan = planOf(number, random)
      const manner = mannerOf(random)
      const controller = manner.abortMs === undefined ? undefined : new AbortController()
      const signal = controller?.signal ?? shared
      const reason = { of: number }
      const timer = controller && setTimeout(() => controller.abort(reason), manner.abortMs)
      const isStream = plan.kind === 'stream'
      const expected = isStream ? eventsOf(plan).join('') : answerOf(plan)
      try {
        const seen = await (manner.door === 'send' ? sendIt : fetchIt)(
          transport,
          server.url,
          JSON.stringify(plan),
          manner,
          signal
        )
        // A refusal at the end of its attempts; by fetch one inside a stream looks like any stream.
        if (seen.status !== 200) return `status ${seen.status}`
        if (seen.isWhole && seen.text.startsWith('data: {"error"')) return 'error event'
        if (seen.isWhole) expect(seen.text, `call ${number}: ${JSON.stringify(plan.acts)}`).toBe(expected)
        else if (!seen.text.includes('"error"')) expect(expected.startsWith(seen.text.replace(/\ufffd$/, ''))).toBe(true)
        return seen.isWhole ? 'answered' : 'left'
      } catch (error) {
        if (error === reason) return 'aborted'
        const ours = error instanceof TypeError ? error.cause : error
        if (!isMillraceError(ours)) throw error
        return ours.code === 'timeout' ? `timeout ${(ours.details as { clock: string }).clock}` : ours.code
      } finally {
        clearTimeout(timer)
        if (controller !== undefined) expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
      }
    }

    let next = 0
    const startedAt = performance.now()
    await Promise.all(
      Array.from({ length: atATime }, async () => {
        while (next < calls) {
          const begun = performance.now()
          const end = await call(next++)
          ends[end] = (ends[end] ?? 0) + 1
          slowestMs = Math.max(slowestMs, performance.now() - begun)
        }
      })
    )
    const { requests = 0, connections = 0 } = await server.counts()
    const seconds = Math.round(performance.now() - startedAt) / 1000
    console.log(
      `stress, seed ${seed}: ${JSON.stringify(ends)}; ${requests} requests on ${connections} sockets, slowest ${Math.round(slowestMs)} ms, ${seconds} s`
    )

    for (const origin of Object.values(transport.stats().origins)) expect(origin).toMatchObject({ busy: 0, queued: 0 })
    await transport.close({ graceMs: 0 })
    await counted(server, { open: 0 })
    await server[Symbol.asyncDispose]()
    await new Promise(setImmediate)
    process.off('unhandledRejection', listen)
    process.off('warning', warn)

    // Each kind of end was met, so that the run means something.
    for (const end of ['answered', 'aborted', 'left', 'network', 'timeout headers', 'timeout idle', 'error event'])
      expect(ends[end], end).toBeGreaterThan(0)
    expect(ends.answered).toBeGreaterThan(calls * 0.6)
    expect(slowestMs).toBeLessThan(totalMs + 1000)
    expect(getEventListeners(shared, 'abort')).toHaveLength(0)
    expect(unhandled).toEqual([])
    expect(warnings).toEqual([])
    await leaks.check()
    const until = performance.now() + 2000
    while (timers.left > 0 && performance.now() < until) await new Promise(setImmediate)
    expect(timers.left).toBe(0)
  },
  Math.max(120_000, calls * 12)
)
