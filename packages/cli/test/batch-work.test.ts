import { createTransport } from '@millrace/transport'
import { expect, it } from 'vitest'
import { createBatchWork } from '../src/batch-work.ts'
import { canary, sendJson, startServer } from './support.ts'

const item = { line: 1, customId: 'a', path: '/v1/x', body: {} }

it('a provider that is down and does not say for how long is waited for ten times, one that says so a hundred times', async () => {
  const headers: Record<string, string> = {}
  await using server = await startServer((_, response) => sendJson(response, 503, {}, headers))
  await using transport = createTransport({ retry: { maxAttempts: 1 }, breaker: false })
  const endpoint = { base: new URL(server.url), headers: {}, secret: undefined }
  const work = createBatchWork({ send: transport.send, endpoint, timeoutMs: 5000, graceMs: 0 })
  const statusAt = (attempt: number): Promise<number | undefined> =>
    work.run(item, { index: 0, attempt, idempotencyKey: undefined, signal: work.signal }).then(
      ({ status }) => status,
      (error: unknown) => (work.pause(error) === undefined ? Promise.reject(error as Error) : undefined)
    )
  expect([await statusAt(1), await statusAt(10), await statusAt(11)]).toEqual([undefined, undefined, 503])
  headers['retry-after'] = '1'
  expect([await statusAt(11), await statusAt(100), await statusAt(101)]).toEqual([undefined, undefined, 503])
  work.close()
})

it('the key does not come back in the id of a request', async () => {
  await using server = await startServer(({ headers }, response) =>
    sendJson(response, 200, {}, { 'x-request-id': `req ${String(headers.authorization)}` })
  )
  await using transport = createTransport()
  const endpoint = { base: new URL(server.url), headers: { authorization: `Bearer ${canary}` }, secret: canary }
  const work = createBatchWork({ send: transport.send, endpoint, timeoutMs: 5000, graceMs: 0 })
  const answer = await work.run(item, { index: 0, attempt: 1, idempotencyKey: undefined, signal: work.signal })
  expect(answer.requestId).toBe('req Bearer [redacted]')
  work.close()
})
