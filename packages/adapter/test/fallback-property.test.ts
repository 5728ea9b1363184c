import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  collect,
  isMillraceError,
  MillraceError,
  type Provider
} from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createFallback } from '../src/fallback.ts'
import { createRunningCalls } from '../src/running-calls.ts'

const seed = 20_261_123
const ask: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'Hello' }] }

/** How one asking of a provider goes: silent chunks, then an end. */
interface Script {
  readonly silence: number
  readonly content: number
  readonly end: 'throw-at-call' | 'throw-at-iterator' | 'throw-at-next' | 'fail' | 'finish' | 'end' | 'hang' | 'deaf' | 'flood'
  readonly pace: 'at once' | 'turn' | 'wait'
}

/** One asking that was begun. */
interface Source {
  readonly by: string
  readonly callId: string | undefined
  /** Its last read gave an end, or threw behind content. */
  isOver: boolean
  isReturned: boolean
}

const broken = (): MillraceError => new MillraceError('unavailable', 'broken', { details: { status: 500 } })

/** A provider that goes by the script of the call, and tells of all that is begun. */
function scripted(by: string, scripts: readonly Script[], begun: Source[]): Provider {
  let asked = 0
  return (_request, { signal, callId }) => {
    const script = scripts[asked++ % scripts.length] as Script
    if (script.end === 'throw-at-call') {
      begun.push({ by, callId, isOver: true, isReturned: true })
      throw broken()
    }
    return {
      [Symbol.asyncIterator]() {
        const source: Source = { by, callId, isOver: false, isReturned: false }
        begun.push(source)
        if (script.end === 'throw-at-iterator') {
          source.isReturned = true
          throw broken()
        }
        let at = 0
        return {
          next() {
            if (script.end === 'throw-at-next') throw broken()
            return step(at++)
          },
          return() {
            source.isReturned = true
            return Promise.resolve({ done: true, value: undefined })
          }
        }

        async function step(number: number): Promise<IteratorResult<Chunk, undefined>> {
          if (source.isOver || source.isReturned) return { done: true, value: undefined }
          if (script.pace === 'turn') await turn()
          if (script.pace === 'wait') await delay(1)
          if (number === 0) return give({ type: 'start', provider: by, model: 'm' })
          if (number <= script.silence || script.end === 'flood') {
            return give(
              number % 2 === 0 ? { type: 'text', text: '' } : { type: 'note', from: 'retry', facts: { attempts: number } }
            )
          }
          if (number <= script.silence + script.content) return give({ type: 'text', text: by })
          if (script.end === 'finish') {
            if (number === script.silence + script.content + 1) return give({ type: 'finish', reason: 'stop' })
            source.isOver = true
            return { done: true, value: undefined }
          }
          if (script.end === 'hang') await aborted(signal)
          if (script.end === 'deaf') await new Promise(() => {})
          source.isOver = script.content > 0 || script.end === 'end'
          if (script.end === 'end') return { done: true, value: undefined }
          throw signal?.aborted === true ? signal.reason : broken()
        }
      }
    }
  }
}

const give = (value: Chunk): IteratorResult<Chunk, undefined> => ({ done: false, value })

function aborted(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) resolve()
    else signal?.addEventListener('abort', () => resolve(), { once: true })
  })
}

const pace = fc.constantFrom('at once', 'turn', 'wait')
const failing = fc.record({
  silence: fc.nat(40),
  content: fc.constantFrom(0, 0, 0, 1, 3),
  end: fc.constantFrom('throw-at-call', 'throw-at-iterator', 'throw-at-next', 'fail', 'fail', 'end', 'hang', 'deaf', 'flood'),
  pace
}) satisfies fc.Arbitrary<Script>
const answering = fc.record({
  silence: fc.nat(40),
  content: fc.nat(3),
  end: fc.constant('finish' as const),
  pace
}) satisfies fc.Arbitrary<Script>

const calls = fc.array(
  fc.record({
    totalMs: fc.integer({ min: 2, max: 25 }),
    abortMs: fc.option(fc.nat(25), { nil: undefined }),
    stream: fc.boolean()
  }),
  { minLength: 1, maxLength: 4 }
)
const options = fc.record({
  balance: fc.constantFrom('ordered' as const, 'weighted' as const),
  coolDownMs: fc.constantFrom(0, 1, 20, 5000),
  patienceMs: fc.nat(1000)
})

interface Outcome {
  readonly chunks: readonly Chunk[]
  readonly error: unknown
  /** Behind a bare timer of the same length. */
  readonly lateMs: number
}

async function read(provider: Provider, call: CallOptions, totalMs: number): Promise<Outcome> {
  const chunks: Chunk[] = []
  let error: unknown
  const due = delay(totalMs).then(() => performance.now())
  try {
    for await (const chunk of provider(ask, call)) chunks.push(chunk)
  } catch (thrown) {
    error = thrown
  }
  const endedAt = performance.now()
  return { chunks, error, lateMs: endedAt - (await due) }
}

async function run(
  scripts: readonly (readonly Script[])[],
  asked: readonly { readonly totalMs: number; readonly abortMs: number | undefined; readonly stream: boolean }[],
  fallbackOptions: Parameters<typeof createFallback>[1]
): Promise<{ readonly outcomes: readonly Outcome[]; readonly begun: readonly Source[] }> {
  const begun: Source[] = []
  const candidates = scripts.map((each, index) => ({ name: `p${index}`, provider: scripted(`p${index}`, each, begun) }))
  const running = createRunningCalls(60_000)
  const provider = running.layer(createFallback(candidates, fallbackOptions).provider)
  const outcomes = await Promise.all(
    asked.map(async ({ totalMs, abortMs, stream }, index) => {
      const controller = new AbortController()
      const timer = abortMs === undefined ? undefined : setTimeout(() => controller.abort('stop'), abortMs)
      const call = { signal: controller.signal, timeouts: { totalMs }, callId: `${index}`, stream }
      const outcome = await read(provider, call, totalMs)
      clearTimeout(timer)
      return outcome
    })
  )
  expect(running.size).toBe(0)
  return { outcomes, begun }
}

/** What holds whatever the providers do. */
function holds(outcomes: readonly Outcome[], begun: readonly Source[]): void {
  for (const { chunks, error, lateMs } of outcomes) {
    expect(lateMs).toBeLessThan(1000)
    expect(error === undefined || error === 'stop' || isMillraceError(error)).toBe(true)
    const starts = chunks.filter((each) => each.type === 'start')
    expect(starts.length).toBeLessThan(2)
    const authors = new Set([
      ...starts.map(({ provider }) => provider),
      ...chunks.flatMap((each) => (each.type === 'text' && each.text !== '' ? [each.text] : []))
    ])
    expect(authors.size).toBeLessThan(2)
    expect(chunks.filter((each) => each.type === 'note' && each.from === 'fallback').length).toBeLessThan(2)
    // Silence alone is nothing to read: what was held back of a failed one stays so.
    const isAnswer = chunks.some((each) => each.type === 'finish' || (each.type === 'text' && each.text !== ''))
    expect(chunks.length > 0).toBe(isAnswer)
  }
  const asked = begun.map(({ by, callId }) => `${by} in ${callId}`)
  expect(new Set(asked).size).toBe(asked.length)
  for (const source of begun) expect(source, JSON.stringify(source)).toSatisfy(() => source.isOver || source.isReturned)
}

describe(`whatever the providers do (seed ${seed})`, () => {
  test('with all of them failing every call ends, in its time, and asks each at most once', async () => {
    const lists = fc.array(fc.array(failing, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 4 })
    await fc.assert(
      fc.asyncProperty(lists, calls, options, async (scripts, asked, given) => {
        const { outcomes, begun } = await run(scripts, asked, given)
        holds(outcomes, begun)
        // That a finish is missing is told by who reads the stream.
        for (const { error, chunks } of outcomes) expect(error ?? chunks.at(-1)?.type).not.toBe('finish')
        for (const { error, chunks } of outcomes) if (chunks.length === 0) expect(error).toBeDefined()
      }),
      { seed, numRuns: 150 }
    )
  }, 60_000)

  test('with some of them answering, what is read is of one of them', async () => {
    const lists = fc.array(fc.array(fc.oneof(failing, answering), { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 4 })
    let answered = 0
    await fc.assert(
      fc.asyncProperty(lists, calls, options, async (scripts, asked, given) => {
        const { outcomes, begun } = await run(scripts, asked, given)
        holds(outcomes, begun)
        answered += outcomes.filter(({ error }) => error === undefined).length
      }),
      { seed, numRuns: 150 }
    )
    expect(answered).toBeGreaterThan(50)
  }, 60_000)

  test('a cool-down fails no call while one of them would answer', async () => {
    const count = 4
    const step = fc.record({
      passMs: fc.constantFrom(0, 1, 100, 5000, 30_000),
      // One at least is healthy, by its place.
      healthy: fc.uniqueArray(fc.nat(count - 1), { minLength: 1, maxLength: count }),
      retryAfterMs: fc.constantFrom(undefined, 0, 10, 60_000, 86_400_000),
      status: fc.constantFrom(429, 503),
      together: fc.integer({ min: 1, max: 4 })
    })
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), options, async (steps, given) => {
        let now = 0
        let current = steps[0] as (typeof steps)[number]
        const candidates = Array.from({ length: count }, (_, index) => ({
          name: `p${index}`,
          provider: async function* (): AsyncGenerator<Chunk> {
            yield { type: 'start', provider: `p${index}`, model: 'm' }
            if (!current.healthy.includes(index)) {
              const { retryAfterMs, status } = current
              throw new MillraceError('overloaded', 'busy', { details: { retryAfterMs, status } })
            }
            yield { type: 'text', text: `p${index}` }
            yield { type: 'finish', reason: 'stop' }
          } satisfies Provider
        }))
        const { provider, stats } = createFallback(candidates, { ...given, now: () => now })
        for (const next of steps) {
          current = next
          now += next.passMs
          const texts = await Promise.all(
            Array.from({ length: next.together }, async () => (await collect(provider(ask, {}))).text)
          )
          for (const text of texts) expect(next.healthy.map((index) => `p${index}`)).toContain(text)
        }
        expect(stats().exhausted).toBe(0)
      }),
      { seed, numRuns: 300 }
    )
  }, 60_000)
})
