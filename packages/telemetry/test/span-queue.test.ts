import { ROOT_CONTEXT } from '@opentelemetry/api'
import { BatchSpanProcessor, type SpanExporter, TracerProvider } from '@opentelemetry/sdk-trace'
import { expect, test } from 'vitest'
import { createSpanQueue, type SpanExporterLike } from '../src/span-queue.ts'

type Done = Parameters<SpanExporterLike['export']>[1]

function createHarness(send: (done: Done) => void) {
  let refused = 0
  const exporter: SpanExporterLike = { export: (_spans, done) => send(done), shutdown: async () => {} }
  const queue = createSpanQueue(exporter, 20, () => refused++)
  const batch = new BatchSpanProcessor({ exporter: queue.exporter as SpanExporter, maxQueueSize: 20, maxExportBatchSize: 10 })
  const provider = new TracerProvider({ spanProcessors: [queue.guard(batch)] })
  const tracer = provider.getTracer('test')
  return {
    queue,
    provider,
    refused: () => refused,
    end(spans: number) {
      for (let span = 0; span < spans; span++) tracer.startSpan('call', {}, ROOT_CONTEXT).end()
    }
  }
}

const ok = { code: 0 }

test('of an exporter that never answers: one batch on its way, a full queue, and the rest refused and counted', async () => {
  const { queue, end, refused, provider } = createHarness(() => {})
  end(100)
  expect(queue.stats()).toEqual({ queued: 30, exported: 0, dropped: 70, failed: 0 })
  expect(refused()).toBe(70)
  const down = provider.shutdown()
  await new Promise(setImmediate)
  queue.abort()
  await down
  expect(queue.stats()).toEqual({ queued: 0, exported: 0, dropped: 100, failed: 3 })
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
  answers[0]?.(ok)
  answers[0]?.({ code: 1 })
  expect(queue.stats()).toEqual({ queued: 0, exported: 10, dropped: 0, failed: 0 })
  end(10)
  const down = provider.shutdown()
  await new Promise(setImmediate)
  queue.abort()
  for (const answer of answers) answer(ok)
  await down
  expect(queue.stats()).toEqual({ queued: 0, exported: 10, dropped: 10, failed: 1 })
})

test('a span that ends after shutdown is dropped and counted', async () => {
  const { queue, end, provider, refused } = createHarness((done) => done(ok))
  await provider.shutdown()
  end(3)
  expect(queue.stats()).toEqual({ queued: 0, exported: 0, dropped: 3, failed: 0 })
  expect(refused()).toBe(0)
})
