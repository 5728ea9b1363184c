import { createHash } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { heapAfterGc } from '@millrace/testkit'
import { type Context, ROOT_CONTEXT, type Span, type SpanContext, SpanStatusCode, TraceFlags, trace } from '@opentelemetry/api'
import {
  AlwaysOnSampler,
  InMemorySpanExporter,
  type ReadableSpan,
  SamplingDecision,
  SimpleSpanProcessor,
  TraceIdRatioBasedSampler,
  TracerProvider
} from '@opentelemetry/sdk-trace'
import fc from 'fast-check'
import { expect, onTestFinished, test, vi } from 'vitest'
import { createTailSampling, type TailSampling, type TailSamplingOptions } from '../src/node.ts'

const seed = 20261123

function createHarness(options: TailSamplingOptions) {
  const exporter = new InMemorySpanExporter()
  const sampling = createTailSampling(new SimpleSpanProcessor({ exporter }), options)
  let ids = 0
  const nextId = (): string => createHash('sha256').update(`${seed} ${ids++}`).digest('hex')
  const provider = new TracerProvider({
    sampler: new AlwaysOnSampler(),
    spanProcessors: [sampling],
    idGenerator: { generateTraceId: () => nextId().slice(0, 32), generateSpanId: () => nextId().slice(0, 16) }
  })
  const tracer = provider.getTracer('test')
  return {
    sampling,
    provider,
    kept: () => exporter.getFinishedSpans().map(({ name }) => name),
    exporter,
    /** A span that began `agoMs` ago. */
    start: (name: string, parent?: Span | Context, agoMs = 0) => {
      const context = parent === undefined ? ROOT_CONTEXT : 'spanContext' in parent ? trace.setSpan(ROOT_CONTEXT, parent) : parent
      return tracer.startSpan(name, { startTime: Date.now() - agoMs }, context)
    }
  }
}

/** The context of a caller in another process. */
function remote(flags: TraceFlags, traceId = 'ffffffff000000000000000000000000'): Context {
  const caller: SpanContext = { traceId, spanId: '00000000000000aa', traceFlags: flags, isRemote: true }
  return trace.setSpanContext(ROOT_CONTEXT, caller)
}

const failed = { code: SpanStatusCode.ERROR }

test('a call with an error anywhere in it is kept whole, one without is let go of and counted', () => {
  const { start, kept, sampling } = createHarness({ ratio: 0 })
  for (const outcome of ['good', 'bad']) {
    const root = start(`${outcome} call`)
    for (const number of [1, 2]) {
      const attempt = start(`${outcome} attempt ${number}`, root)
      if (outcome === 'bad' && number === 1) attempt.setStatus(failed)
      attempt.end()
    }
    root.end()
  }
  expect(kept()).toEqual(['bad attempt 1', 'bad attempt 2', 'bad call'])
  expect(sampling.stats()).toEqual({ ended: 6, held: 0, sampledOut: 3 })
})

test('a call of at least slowMs is kept with the request around it, a quick one is not', () => {
  const { start, kept, sampling } = createHarness({ ratio: 0, slowMs: 1000 })
  const request = start('request', undefined, 1600)
  const slow = start('slow', request, 1500)
  start('attempt', slow).end()
  slow.end()
  request.end()
  const quick = start('quick', undefined, 900)
  start('child', quick, 900).end()
  quick.end()
  expect(kept()).toEqual(['slow', 'attempt', 'request'])
  expect(sampling.stats().sampledOut).toBe(2)
})

test('the ratio chooses the trace ids that the SDK chooses', () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1, noNaN: true }), fc.bigInt({ min: 1n, max: 2n ** 128n - 1n }), (ratio, id) => {
      const traceId = id.toString(16).padStart(32, '0')
      const { start, kept } = createHarness({ ratio })
      start('call', remote(TraceFlags.NONE, traceId)).end()
      const chosen =
        new TraceIdRatioBasedSampler(ratio).shouldSample(ROOT_CONTEXT, traceId).decision !== SamplingDecision.NOT_RECORD
      expect(kept()).toEqual(chosen ? ['call'] : [])
    }),
    { seed, numRuns: 500 }
  )
})

test('the call of a sampled caller is kept as it goes, that of an unsampled one is decided like one without a caller', () => {
  const { start, kept, sampling } = createHarness({ ratio: 0 })
  const sampled = start('sampled', remote(TraceFlags.SAMPLED))
  start('its attempt', sampled).end()
  expect(kept()).toEqual(['its attempt'])
  sampled.end()
  start('unsampled', remote(TraceFlags.NONE)).end()
  start('unsampled and bad', remote(TraceFlags.NONE)).setStatus(failed).end()
  expect(kept()).toEqual(['its attempt', 'sampled', 'unsampled and bad'])
  expect(sampling.stats().sampledOut).toBe(1)
})

test('two calls of one trace are decided each for itself', () => {
  const { start, kept } = createHarness({ ratio: 0 })
  const first = start('first', remote(TraceFlags.NONE))
  const second = start('second', remote(TraceFlags.NONE))
  const attempt = start('second attempt', second)
  first.end()
  attempt.setStatus(failed).end()
  second.end()
  expect(kept()).toEqual(['second attempt', 'second'])
})

test('a call that outlives its request is decided for itself: kept whole if it failed or was slow', () => {
  const { start, kept, exporter, sampling } = createHarness({ ratio: 0, slowMs: 1000 })
  for (const outcome of ['good', 'slow', 'bad']) {
    const request = start('request')
    const chat = start(outcome, request, outcome === 'slow' ? 5000 : 0)
    start(`attempt of ${outcome}`, chat).end()
    request.end()
    start(`late attempt of ${outcome}`, chat).end()
    if (outcome === 'bad') chat.setStatus(failed)
    chat.end()
    expect(kept()).toEqual(outcome === 'good' ? [] : [outcome, `attempt of ${outcome}`, `late attempt of ${outcome}`])
    exporter.reset()
  }
  expect(sampling.stats()).toEqual({ ended: 12, held: 0, sampledOut: 6 })
})

test('what outlives a request that is kept is kept with it, what starts after its end is decided for itself', () => {
  const { start, kept, sampling } = createHarness({ ratio: 0 })
  const bad = start('bad')
  const chat = start('chat', bad)
  const attempt = start('attempt', chat)
  chat.end()
  bad.setStatus(failed).end()
  attempt.end()
  start('started after', bad).end()
  start('bad and started after', bad).setStatus(failed).end()
  expect(kept()).toEqual(['bad', 'chat', 'attempt', 'bad and started after'])
  expect(sampling.stats()).toEqual({ ended: 5, held: 0, sampledOut: 1 })
})

test('an attempt that starts when its call is slow already is kept with it', async () => {
  const { start, kept } = createHarness({ ratio: 0, slowMs: 30 })
  const chat = start('chat')
  start('first', chat).end()
  await pause(40)
  start('second', chat).end()
  chat.end()
  expect(kept()).toEqual(['first', 'second', 'chat'])
})

test.each(['slow', 'failed'])(
  'a root that lives on and is kept, for a call was %s, keeps no more than a hundred later ones',
  async (why) => {
    const { start, kept, sampling } = createHarness({ ratio: 0, slowMs: why === 'slow' ? 30 : 10_000 })
    const root = start('worker')
    if (why === 'slow') await pause(40)
    else start('chat', root).setStatus(failed).end()
    for (let at = 0; at < 1000; at++) {
      const chat = start('chat', root)
      start('attempt', chat).end()
      chat.end()
    }
    expect(kept()).toHaveLength(why === 'slow' ? 200 : 201)
    const bad = start('bad', root)
    start('attempt of bad', bad).end()
    bad.setStatus(failed).end()
    expect(kept().slice(-2)).toEqual(['bad', 'attempt of bad'])
    const { ended, held, sampledOut } = sampling.stats()
    expect([held, ended - sampledOut]).toEqual([0, kept().length])
  }
)

test('a parent of this process that is given as a span context is one, and no sampled caller', () => {
  const { start, kept } = createHarness({ ratio: 0 })
  const below = (span: Span): Context => trace.setSpanContext(ROOT_CONTEXT, span.spanContext())
  const good = start('good')
  for (let at = 0; at < 1000; at++) start('chat', below(good)).end()
  good.end()
  start('after', below(good)).end()
  expect(kept()).toEqual([])
  const bad = start('bad')
  start('chat', below(bad)).end()
  bad.setStatus(failed).end()
  expect(kept()).toEqual(['bad', 'chat'])
})

test('no more than maxSpans are held: the oldest call is decided early, and its error still kept', () => {
  const { start, kept, sampling } = createHarness({ ratio: 0, maxSpans: 10 })
  const roots = Array.from({ length: 25 }, (_, at) => start(`root ${at}`))
  for (const root of roots) start('child', root).end()
  expect(sampling.stats()).toEqual({ ended: 25, held: 10, sampledOut: 15 })
  roots[0]?.setStatus(failed).end()
  roots[1]?.end()
  roots[24]?.setStatus(failed).end()
  expect(kept()).toEqual(['root 0', 'root 24', 'child'])
  expect(sampling.stats()).toEqual({ ended: 28, held: 9, sampledOut: 16 })
})

test('a span that failed is passed on before those that were held for it, and the span it is in before the others', () => {
  const { start, kept } = createHarness({ ratio: 0 })
  const root = start('root')
  start('sibling', root).end()
  const call = start('call', root)
  start('attempt', call).end()
  call.setStatus(failed).end()
  root.end()
  expect(kept()).toEqual(['call', 'attempt', 'sibling', 'root'])
})

test.each(['shutdown', 'overflow'])('a call that is kept loses none of the spans held below it at %s', async (how) => {
  const passed: object[] = []
  const sampling = createTailSampling<object, ReadableSpan>(
    { onStart() {}, onEnd: (span) => void passed.push(span), forceFlush: async () => {}, shutdown: async () => {} },
    { ratio: 0, maxSpans: 5 }
  )
  const tracer = new TracerProvider({ sampler: new AlwaysOnSampler(), spanProcessors: [sampling] }).getTracer('test')
  const start = (parent?: Span): Span =>
    tracer.startSpan('span', {}, parent === undefined ? ROOT_CONTEXT : trace.setSpan(ROOT_CONTEXT, parent))
  const call = start()
  const attempt = start(call)
  const inner = start(attempt)
  const bad = start(call)
  inner.end()
  bad.setStatus(failed).end()
  const other = start()
  if (how === 'shutdown') await sampling.shutdown()
  else for (let at = 0; at < 6; at++) start(other).end()
  attempt.end()
  call.end()
  expect(passed).toEqual([bad, inner, attempt, call])
})

test('the text of what is held is bounded too: the oldest call is decided early', () => {
  const { start, sampling } = createHarness({ ratio: 0 })
  for (let at = 0; at < 20; at++)
    start('a', start('root'))
      .setAttribute('text', 'a'.repeat(1024 * 1024))
      .end()
  expect(sampling.stats()).toEqual({ ended: 20, held: 15, sampledOut: 5 })
})

test('the spans of a root that never ends are passed on once it is slow', async () => {
  const { start, kept, sampling } = createHarness({ ratio: 0, slowMs: 50 })
  const root = start('root')
  start('child', root).end()
  expect(sampling.stats().held).toBe(1)
  for (let round = 0; round < 100 && kept().length === 0; round++) await pause(20)
  expect(kept()).toEqual(['child'])
  start('next', root).end()
  expect(kept()).toEqual(['child', 'next'])
})

test('with ratio 1 nothing is held and the order stays', () => {
  const { start, kept, sampling } = createHarness({ ratio: 1 })
  const root = start('root')
  start('child', root).end()
  expect(kept()).toEqual(['child'])
  root.end()
  expect(kept()).toEqual(['child', 'root'])
  expect(sampling.stats()).toEqual({ ended: 2, held: 0, sampledOut: 0 })
})

test('shutdown lets go of what is held, and counts it', async () => {
  const { start, provider, sampling } = createHarness({ ratio: 0 })
  start('child', start('root')).end()
  await provider.forceFlush()
  expect(sampling.stats().held).toBe(1)
  await provider.shutdown()
  expect(sampling.stats()).toEqual({ ended: 1, held: 0, sampledOut: 1 })
})

test('what ends after the shutdown is decided at once', async () => {
  const { start, provider, sampling } = createHarness({ ratio: 0, slowMs: 1000 })
  const root = start('root')
  const children = [start('good', root), start('bad', root), start('slow', root, 2000)]
  await provider.shutdown()
  children[0]?.end()
  expect(sampling.stats()).toEqual({ ended: 1, held: 0, sampledOut: 1 })
  children[1]?.setStatus(failed)
  for (const child of children) child.end()
  root.end()
  expect(sampling.stats()).toEqual({ ended: 4, held: 0, sampledOut: 1 })
})

test('every span is held, let go of or passed on, also while some are being passed on', () => {
  let passed = 0
  const seen: number[] = []
  const sampling: TailSampling<object, ReadableSpan> = createTailSampling<object, ReadableSpan>(
    {
      onStart() {},
      onEnd() {
        passed++
        const { ended, held, sampledOut } = sampling.stats()
        seen.push(ended - held - sampledOut - passed)
      },
      forceFlush: async () => {},
      shutdown: async () => {}
    },
    { ratio: 0 }
  )
  const tracer = new TracerProvider({ spanProcessors: [sampling] }).getTracer('test')
  const root = tracer.startSpan('root')
  for (let at = 0; at < 5; at++) tracer.startSpan('child', {}, trace.setSpan(ROOT_CONTEXT, root)).end()
  root.setStatus(failed).end()
  expect(seen).toEqual([0, 0, 0, 0, 0, 0])
})

test('calls that each start the next before they end leave nothing behind', async () => {
  const { start, sampling } = createHarness({ ratio: 0 })
  let last = start('call')
  const run = async (calls: number): Promise<number> => {
    for (let at = 0; at < calls; at++) {
      const next = start('call', last)
      last.end()
      last = next
    }
    return heapAfterGc()
  }
  await run(5000)
  const before = await run(5000)
  const after = await run(90_000)
  expect(sampling.stats()).toEqual({ ended: 100_000, held: 0, sampledOut: 100_000 })
  expect(after - before).toBeLessThan(4 * 1024 * 1024)
})

test('spans that never end leave nothing behind', async () => {
  const { start, sampling } = createHarness({ ratio: 0, maxSpans: 100 })
  const run = async (calls: number): Promise<number> => {
    for (let at = 0; at < calls; at++) start('child', start('never ended')).end()
    return heapAfterGc()
  }
  await run(5000)
  const before = await run(5000)
  const after = await run(90_000)
  expect(sampling.stats()).toEqual({ ended: 100_000, held: 100, sampledOut: 99_900 })
  expect(after - before).toBeLessThan(4 * 1024 * 1024)
})

test('of any trees in any order, what failed or was slow is kept with all below it, and of the rest what the SDK would choose', () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] })
  onTestFinished(() => void vi.useRealTimers())
  const slowMs = 60_000
  // Each step starts a span, below a random one or below none, or ends one that is under way, and time goes on.
  const step = fc.record({
    starts: fc.boolean(),
    at: fc.nat(),
    how: fc.constantFrom('good', 'good', 'good', 'slow', 'bad'),
    waitMs: fc.constantFrom(0, 0, 0, 0, 1, 20_000, 70_000)
  })
  const ratios = fc.constantFrom(0, 0.3, 0.9)
  fc.assert(
    fc.property(ratios, fc.array(step, { maxLength: 60 }), fc.boolean(), fc.boolean(), (ratio, steps, asContexts, pauses) => {
      const { start, exporter, sampling } = createHarness({ ratio, slowMs })
      const all: Grown[] = []
      const open: Grown[] = []
      const expected = new Set<string>()
      const wrong = new Set<string>()
      const end = (index: number): void => {
        const [ending] = open.splice(index, 1)
        if (ending === undefined) return
        if (ending.how === 'bad') ending.span.setStatus(failed)
        ending.span.end()
        if (ending.how !== 'bad' && Date.now() - ending.startedAt < slowMs) return
        for (const one of all) if (one === ending || one.above.includes(ending)) wrong.add(one.name)
        for (const one of ending.above) if (open.includes(one)) wrong.add(one.name)
      }
      for (const { starts, at, how, waitMs } of steps) {
        vi.advanceTimersByTime(waitMs)
        if (!starts) {
          end(at % Math.max(1, open.length))
          continue
        }
        const parent = at % 4 === 0 ? undefined : all[at % Math.max(1, all.length)]
        const name = String(all.length)
        const under = parent && (asContexts ? trace.setSpanContext(ROOT_CONTEXT, parent.span.spanContext()) : parent.span)
        const span = start(name, under, how === 'slow' ? 90_000 : 0)
        // Only what is under way takes its part in a new span.
        const above =
          parent === undefined || !open.includes(parent) ? [] : [parent, ...parent.above.filter((one) => open.includes(one))]
        const startedAt = Date.now() - (how === 'slow' ? 90_000 : 0)
        const grown = { name, span, how, startedAt, above }
        all.push(grown)
        open.push(grown)
        // A call that is kept already keeps what starts below it.
        if (above.some((one) => wrong.has(one.name))) wrong.add(name)
      }
      if (pauses) {
        vi.advanceTimersByTime(2 * slowMs)
        expect(sampling.stats().held).toBe(0)
      }
      while (open.length > 0) end(open.length - 1)

      const kept = exporter.getFinishedSpans().map(({ name }: ReadableSpan) => name)
      const chosen = new TraceIdRatioBasedSampler(ratio)
      for (const { name, span } of all) {
        const { decision } = chosen.shouldSample(ROOT_CONTEXT, span.spanContext().traceId)
        if (wrong.has(name) || decision !== SamplingDecision.NOT_RECORD) expected.add(name)
      }
      expect(new Set(kept).size).toBe(kept.length)
      expect([...expected].filter((name) => !kept.includes(name))).toEqual([])
      if (wrong.size === 0) expect(kept.toSorted()).toEqual([...expected].toSorted())
      expect(sampling.stats()).toEqual({ ended: all.length, held: 0, sampledOut: all.length - kept.length })
    }),
    { seed, numRuns: 1000 }
  )
})

interface Grown {
  readonly name: string
  readonly span: Span
  readonly how: string
  readonly startedAt: number
  /** Those around it that were under way when it began, the nearest first. */
  readonly above: readonly Grown[]
}

test('of any calls in any order, those with an error are kept whole, the others not, and the counts add up', () => {
  const call = fc.record({ children: fc.array(fc.boolean(), { maxLength: 4 }), rootFails: fc.boolean() })
  fc.assert(
    fc.property(fc.array(call, { maxLength: 12 }), fc.infiniteStream(fc.nat()), (calls, choices) => {
      const { start, exporter, sampling } = createHarness({ ratio: 0 })
      const names: string[] = []
      const expected: string[] = []
      // Per call, children end in order and the root last; calls are interleaved at random.
      const steps = calls.map(({ children, rootFails }, at) => {
        const root = start(`${at}`)
        const spans = [
          ...children.map((fails, child) => ({ fails, span: start(`${at}.${child}`, root) })),
          { fails: rootFails, span: root }
        ]
        names.push(...spans.map((_, child) => (child === spans.length - 1 ? `${at}` : `${at}.${child}`)))
        if (spans.some(({ fails }) => fails)) expected.push(...names.slice(-spans.length))
        return spans
      })
      const open = steps.filter((spans) => spans.length > 0)
      for (const choice of choices) {
        if (open.length === 0) break
        const at = choice % open.length
        const { fails = false, span } = open[at]?.shift() ?? {}
        if (fails) span?.setStatus(failed)
        span?.end()
        if (open[at]?.length === 0) open.splice(at, 1)
      }
      const kept = exporter.getFinishedSpans().map(({ name }: ReadableSpan) => name)
      expect(kept.toSorted()).toEqual(expected.toSorted())
      expect(sampling.stats()).toEqual({ ended: names.length, held: 0, sampledOut: names.length - kept.length })
    }),
    { seed, numRuns: 300 }
  )
})

test('a hundred thousand calls leave nothing behind', async () => {
  const { start, sampling } = createHarness({ ratio: 0 })
  const run = async (calls: number): Promise<number> => {
    for (let at = 0; at < calls; at++) {
      const root = start('root')
      start('child', root).end()
      root.end()
    }
    return heapAfterGc()
  }
  await run(5000)
  const before = await run(5000)
  const after = await run(90_000)
  expect(sampling.stats()).toEqual({ ended: 200_000, held: 0, sampledOut: 200_000 })
  expect(after - before).toBeLessThan(4 * 1024 * 1024)
})

test('wrong options are refused with the cure', () => {
  expect(() => createHarness({ ratio: 10 })).toThrow(new TypeError('ratio must be a number from 0 to 1: 0.1 keeps a tenth'))
  expect(() => createHarness({ slowMs: Number.NaN })).toThrow(TypeError)
  expect(() => createHarness({ maxSpans: 0 })).toThrow(TypeError)
  expect(() => createHarness({ rate: 1 } as never)).toThrow(/createTailSampling has no option "rate"/)
})
