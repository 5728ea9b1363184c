// The list of faults, as telemetry tells of it: each call is one span that ends once, with the outcome the caller had, and
// with one child for each request.
import { setTimeout as delay } from 'node:timers/promises'
import { type Adapter, createAdapter } from '@millrace/adapter'
import { isMillraceError } from '@millrace/core'
import { chunk } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { expect, test } from 'vitest'
import { type Row, rows } from './telemetry-fault-rows.ts'
import { createHarness } from './telemetry-harness.ts'
import { answersOnce, ask, both, eager, judge, rig, type Shape, sound, use, usualWire } from './telemetry-rig.ts'
import { startCountingServer, streamHead, wires } from './telemetry-wire.ts'

const cases = rows.flatMap((row) =>
  (row.shapes ?? both).flatMap((shape) =>
    wires
      .filter(({ name }) => row.wire === undefined || row.wire === name)
      .map((wire) => [row.fault, shape, wire.name, row, wire] as const)
  )
)

/** Makes the call, and gives what the caller caught. */
async function call(adapter: Adapter, row: Row, shape: Shape, requests: () => number): Promise<unknown> {
  const controller = new AbortController()
  if (row.abort === 'before') controller.abort('enough')
  const { signal } = controller
  try {
    if (shape === 'complete') {
      const answer = adapter.complete(ask(), { signal })
      answer.catch(() => {})
      await aborting()
      await answer
    } else {
      const reading = read()
      reading.catch(() => {})
      await aborting()
      await reading
    }
    return undefined
  } catch (error) {
    return error
  }

  async function read(): Promise<void> {
    for await (const { type } of adapter.stream(ask(), { signal })) {
      if (type !== 'text') continue
      if (row.abort === 'content') setTimeout(() => controller.abort('enough'), 30)
      if (row.read === 'leaves') break
      if (row.read === 'throws') throw new Error('of the reader')
      if (row.read === 'slowly') await delay(50)
    }
  }
  async function aborting(): Promise<void> {
    if (row.abort !== 'request' && row.abort !== 'connecting') return
    if (row.abort === 'request') await expect.poll(requests, { timeout: 5000 }).toBe(1)
    await delay(50)
    controller.abort('enough')
  }
}

test.each(cases)('%s (%s, %s)', async (_, shape, __, row, wire) => {
  const harness = use(createHarness())
  let target = await row.reach?.(wire)
  if (target === undefined) {
    const server = use(await startCountingServer((connection) => row.serve?.(connection, wire)))
    target = { url: server.url, requests: () => server.requests.length }
  }
  const { url, requests } = target
  const transport = use(createTransport({ ...eager, ...target.transport, ...row.transport }))
  const adapter = use(createAdapter({ provider: wire.provider(url), transport, timeouts: row.timeouts ?? {} }))
  if (row.warm === true) {
    await (shape === 'complete' ? adapter.complete(ask()) : adapter.stream(ask()).completion())
    // The socket is back, and what its server said last has come.
    await delay(20)
  }
  const before = requests()
  const caught = await call(adapter, row, shape, requests)
  const { span, attempts } = await judge(harness, row.gives, row.warm === true ? 1 : 0)
  if (row.gives === 'aborted') expect(caught).toBe('enough')
  else if (row.read === 'throws') expect(caught).toMatchObject({ message: 'of the reader' })
  else expect(isMillraceError(caught) ? caught.code : caught).toBe(span.attributes['error.type'])
  if (row.clock !== undefined) expect(span.attributes['millrace.timeout.clock']).toBe(row.clock)
  expect(attempts).toHaveLength(row.attempts ?? 1)
  expect(span.attributes['millrace.attempts'] ?? 0).toBe(attempts.length)
  expect(requests() - before).toBe(row.requests ?? (row.reach === undefined ? (row.attempts ?? 1) : 0))
})

test('the judge is one: it sees a span that is left open, one that is ended twice, and a call that goes on', async () => {
  const { harness, adapter } = await rig(answersOnce(() => streamHead + chunk(usualWire.opening)))
  const stream = adapter.stream(ask())
  await stream.next()
  expect(harness.objections()).toContain('1 calls are open')
  expect(harness.objections()).toContain('"chat asked" was ended 0 times')
  await stream.return()
  await sound(harness)
  const span = harness.tracerProvider.getTracer('test').startSpan('mine')
  expect(harness.objections()).toEqual(['"mine" was ended 0 times'])
  span.end()
  span.end()
  expect(harness.objections()).toEqual(['"mine" was ended 2 times'])
})
