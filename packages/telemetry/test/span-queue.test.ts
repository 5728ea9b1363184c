import { ROOT_CONTEXT } from '@opentelemetry/api'
import { TracerProvider } from '@opentelemetry/sdk-trace'
import { expect, test } from 'vitest'
import { createSpanQueue, type SpanExporterLike, type SpanQueueOptions } from '../src/span-queue.ts'

type Done = Parameters<SpanExporterLike['export']>[1]

function createHarness(send: (done: Done, spans: number) => void, options: Partial<SpanQueueOptions> = {}) {
  let refused = 0
  const queue = createSpanQueue(
    { export: (spans, done) => send(done, spans.length), shutdown: async () => {} },
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

test('an export that hangs is given up at its deadline, and the next begins then', async () => {
  let calls = 0
  const { queue, end } = createHarness((done) => void (++calls > 1 && done(ok)), { exportTimeoutMillis: 50 })
  end(20)
  await expect.poll(() => queue.stats()).toEqual({ queued: 0, exported: 10, dropped: 10, failed: 1 })
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
  end(40, 'a'.repeat(1024 * 1024))
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
