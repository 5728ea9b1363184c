import { ROOT_CONTEXT } from '@opentelemetry/api'
import { TracerProvider } from '@opentelemetry/sdk-trace'
import { expect, test } from 'vitest'
import { createSpanQueue, type SpanExporterLike, type SpanQueueOptions } from '../src/span-queue.ts'

type Done = Parameters<SpanExporterLike['export']>[1]

/** With so many exporters of the same kind. */
function createHarness(
  send: (done: Done, spans: number) => void,
  { exporters = 1, ...options }: Partial<SpanQueueOptions> & { readonly exporters?: number } = {}
) {
  let refused = 0
  const queue = createSpanQueue(
    Array.from({ length: exporters }, () => ({ export: (spans, done) => send(done, spans.length), shutdown: async () => {} })),
    {
      maxQueueSize: 20,
      maxExportBatchSize: 10,
      scheduledDelayMillis: 60_000,
      exportTimeoutMillis: 60_000,
      onFull: () => refused++,
      ...options
    }
  )
  const provider = new TracerProvider({ spanProcessors: [queue] })
  const tracer = provider.getTracer('test')
  return {
    queue,
    provider,
    refused: () => refused,
    end(spans: number, text = '') {
      for (let span = 0; span < spans; span++) tracer.startSpan('call', { attributes: { text } }, ROOT_CONTEXT).end()
    }
  }
}

const ok = { code: 0 }
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)))

test('of an exporter that never answers: one batch on its way, a full queue, and the rest refused and counted', async () => {
  let begun = 0
  const { queue, end, refused, provider } = createHarness(() => begun++)
  end(15)
  await turn()
  end(85)
  expect(queue.stats()).toEqual({ queued: 30, exported: 0, dropped: 70, failed: 0 })
  expect(refused()).toBe(70)
  const down = provider.shutdown()
  await turn()
  expect(begun).toBe(1)
  queue.abort()
  await down
  expect(queue.stats()).toEqual({ queued: 0, exported: 0, dropped: 100, failed: 1 })
})

test('an export that hangs is given up at its deadline, and the next begins soon after', async () => {
  let calls = 0
  const { queue, end } = createHarness((done) => void (++calls > 1 && done(ok)), {
    exportTimeoutMillis: 50,
    scheduledDelayMillis: 50
  })
  end(20)
  await expect.poll(() => queue.stats()).toEqual({ queued: 0, exported: 10, dropped: 10, failed: 1 })
})

test('as many exports are under way as there are exporters, one begun a turn, and each has a deadline of its own', async () => {
  const answers: Done[] = []
  const { queue, end } = createHarness((done) => answers.push(done), {
    exporters: 4,
    maxQueueSize: 100,
    exportTimeoutMillis: 300
  })
  end(60)
  const begun: number[] = []
  for (let round = 0; round < 6; round++) {
    await new Promise((resolve) => setImmediate(resolve))
    begun.push(answers.length)
  }
  expect(begun.every((count, at) => count - (begun[at - 1] ?? 0) <= 1)).toBe(true)
  expect([answers.length, queue.stats()]).toEqual([4, { queued: 60, exported: 0, dropped: 0, failed: 0 }])
  answers[2]?.(ok)
  await turn()
  await turn()
  expect([answers.length, queue.stats()]).toEqual([5, { queued: 50, exported: 10, dropped: 0, failed: 0 }])
  for (const at of [0, 1, 4]) answers[at]?.(ok)
  await expect.poll(() => queue.stats()).toEqual({ queued: 0, exported: 40, dropped: 20, failed: 2 })
})

test('a flush waits for what had ended by then, in whatever order the exports are answered, and for nothing later', async () => {
  const answers: Done[] = []
  const { queue, end, provider } = createHarness((done) => answers.push(done), { exporters: 4 })
  end(20)
  let flushed = false
  const flush = provider.forceFlush().then(() => (flushed = true))
  await expect.poll(() => answers.length).toBe(2)
  end(10)
  await expect.poll(() => answers.length).toBe(3)
  answers[1]?.(ok)
  answers[2]?.(ok)
  await turn()
  expect([flushed, queue.stats().exported]).toEqual([false, 20])
  end(10)
  await turn()
  answers[0]?.(ok)
  await flush
  expect(queue.stats()).toEqual({ queued: 10, exported: 30, dropped: 0, failed: 0 })
})

test('after a failed export one alone is tried, until one succeeds', async () => {
  let code = 1
  let underWay = 0
  const most = { failing: 0, well: 0 }
  const { queue, end } = createHarness(
    (done) => {
      underWay++
      const which = code === 0 ? 'well' : 'failing'
      most[which] = Math.max(most[which], underWay)
      const answer = { code }
      setTimeout(() => {
        underWay--
        done(answer)
      }, 20)
    },
    { exporters: 4, scheduledDelayMillis: 30, maxQueueSize: 1000 }
  )
  end(40)
  await expect.poll(() => queue.stats().failed).toBe(4)
  most.failing = 0
  end(200)
  await expect.poll(() => queue.stats().failed).toBeGreaterThan(6)
  expect(most.failing).toBe(1)
  code = 0
  await expect.poll(() => queue.stats().queued).toBe(0)
  expect(most.well).toBeGreaterThan(1)
})

test('no export is begun inside the end of a span', async () => {
  let calls = 0
  const { queue, end } = createHarness((done) => {
    calls++
    done(ok)
  })
  end(10)
  expect(calls).toBe(0)
  await turn()
  expect([calls, queue.stats().exported]).toEqual([1, 10])
})

test('at shutdown batch follows batch, one at a time and a turn between them, though some fail', async () => {
  let underWay = 0
  let most = 0
  let turns = 0
  const count = (): void => void (turns++, (counting = setImmediate(count)))
  let counting = setImmediate(count)
  let calls = 0
  const { queue, end, provider } = createHarness(
    (done) => {
      most = Math.max(most, ++underWay)
      const code = ++calls % 2
      setTimeout(() => {
        underWay--
        done({ code })
      }, 1)
    },
    { maxQueueSize: 1000 }
  )
  end(1000)
  await provider.shutdown()
  clearImmediate(counting)
  expect([most, calls]).toEqual([1, 100])
  expect(turns).toBeGreaterThanOrEqual(100)
  expect(queue.stats()).toEqual({ queued: 0, exported: 500, dropped: 500, failed: 50 })
})

test('an exporter that throws costs its batch and nothing else', async () => {
  let calls = 0
  const { queue, end, provider } = createHarness((done) => {
    if (++calls === 1) throw new Error('broken')
    done(ok)
  })
  end(20)
  await provider.shutdown()
  expect(queue.stats()).toEqual({ queued: 0, exported: 10, dropped: 10, failed: 1 })
})

test('an exporter that answers twice, or after it was given up, is counted once', async () => {
  const answers: Done[] = []
  const { queue, end, provider } = createHarness((done) => answers.push(done))
  end(10)
  await turn()
  answers[0]?.(ok)
  answers[0]?.({ code: 1 })
  await turn()
  expect(queue.stats()).toEqual({ queued: 0, exported: 10, dropped: 0, failed: 0 })
  end(10)
  const down = provider.shutdown()
  await turn()
  queue.abort()
  for (const answer of answers) answer(ok)
  await down
  expect(queue.stats()).toEqual({ queued: 0, exported: 10, dropped: 10, failed: 1 })
})

test('an answer without a result is a failure, and a shutdown that throws or promises nothing is none', async () => {
  const broken = [
    (): Promise<void> => {
      throw new Error('broken')
    },
    () => undefined as unknown as Promise<void>,
    async () => Promise.reject(new Error('broken'))
  ]
  for (const shutdown of broken) {
    const options = { maxQueueSize: 20, maxExportBatchSize: 10, scheduledDelayMillis: 60_000, exportTimeoutMillis: 60_000 }
    const exporter: SpanExporterLike = { export: (_spans, done) => done(undefined as never), shutdown }
    const queue = createSpanQueue([exporter], { ...options, onFull() {} })
    queue.onEnd({})
    await queue.shutdown()
    expect(queue.stats()).toEqual({ queued: 0, exported: 0, dropped: 1, failed: 1 })
  }
})

test.each([-3, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('a collector that rejects %d spans rejects none', async (rejected) => {
  const { queue, end, provider } = createHarness((done) => done({ code: 0, rejected }))
  end(10)
  await provider.shutdown()
  expect(queue.stats()).toEqual({ queued: 0, exported: 10, dropped: 0, failed: 0 })
})

test('the name, the status and the links of a span count as its text', async () => {
  const text = 'a'.repeat(200 * 1024)
  const sizes: number[] = []
  const { queue } = createHarness((done, spans) => {
    sizes.push(spans)
    done(ok)
  })
  for (const span of [{ name: text }, { status: { message: text } }, { links: [{ attributes: { text } }] }]) {
    queue.onEnd(span)
    queue.onEnd(span)
  }
  await queue.shutdown()
  expect(sizes).toEqual([1, 1, 1, 1, 1, 1])
})

test('spans that the collector rejects out of an export are dropped, never more than it held', async () => {
  const rejected = [3, 100]
  const { queue, end, provider } = createHarness((done) => done({ code: 0, rejected: rejected.shift() ?? 0 }))
  end(20)
  await provider.shutdown()
  expect(queue.stats()).toEqual({ queued: 0, exported: 7, dropped: 13, failed: 0 })
})

test('a batch and the queue are bounded by their text too', async () => {
  const sizes: number[] = []
  const { queue, end, provider } = createHarness(
    (done, spans) => {
      sizes.push(spans)
      done(ok)
    },
    { maxQueueSize: 1000, maxExportBatchSize: 1000 }
  )
  end(12, 'a'.repeat(100 * 1024))
  await turn()
  await provider.forceFlush()
  expect(sizes).toEqual([2, 2, 2, 2, 2, 2])
  end(40, 'a'.repeat(1024 * 1024 - 'call'.length))
  expect(queue.stats()).toMatchObject({ queued: 32, dropped: 8 })
  await provider.shutdown()
  expect(sizes.slice(6)).toEqual(Array.from({ length: 32 }, () => 1))
})

test('a span that ends after shutdown is dropped and counted', async () => {
  const { queue, end, provider, refused } = createHarness((done) => done(ok))
  await provider.shutdown()
  end(3)
  expect(queue.stats()).toEqual({ queued: 0, exported: 0, dropped: 3, failed: 0 })
  expect(refused()).toBe(0)
})
