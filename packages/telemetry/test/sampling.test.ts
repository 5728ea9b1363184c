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
import { expect, test } from 'vitest'
import { createTailSampling, type TailSamplingOptions } from '../src/node.ts'

const seed = 20261123

function createHarness(options: TailSamplingOptions) {
  const exporter = new InMemorySpanExporter()
  const sampling = createTailSampling(new SimpleSpanProcessor({ exporter }), options)
  const provider = new TracerProvider({ sampler: new AlwaysOnSampler(), spanProcessors: [sampling] })
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

test('a call of at least slowMs is kept, a slow child of a quick call is not', () => {
  const { start, kept, sampling } = createHarness({ ratio: 0, slowMs: 1000 })
  const slow = start('slow', undefined, 1500)
  start('attempt', slow).end()
  slow.end()
  const quick = start('quick')
  start('child', quick, 5000).end()
  quick.end()
  expect(kept()).toEqual(['attempt', 'slow'])
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

test('a child that ends after its root follows it, and is kept in any case if it failed', () => {
  const { start, kept, sampling } = createHarness({ ratio: 0 })
  const good = start('good')
  const late = start('late', good)
  good.end()
  late.end()
  const lost = start('lost', good)
  lost.setStatus(failed).end()
  const bad = start('bad')
  const after = start('after', bad)
  bad.setStatus(failed).end()
  after.end()
  start('started after', bad).end()
  expect(kept()).toEqual(['lost', 'bad', 'after', 'started after'])
  expect(sampling.stats()).toEqual({ ended: 6, held: 0, sampledOut: 2 })
})

test('no more than maxSpans are held: the oldest call is decided early, and its error still kept', () => {
  const { start, kept, sampling } = createHarness({ ratio: 0, maxSpans: 10 })
  const roots = Array.from({ length: 25 }, (_, at) => start(`root ${at}`))
  for (const root of roots) start('child', root).end()
  expect(sampling.stats()).toEqual({ ended: 25, held: 10, sampledOut: 15 })
  roots[0]?.setStatus(failed).end()
  roots[1]?.end()
  roots[24]?.setStatus(failed).end()
  expect(kept()).toEqual(['root 0', 'child', 'root 24'])
  expect(sampling.stats()).toEqual({ ended: 28, held: 9, sampledOut: 16 })
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
