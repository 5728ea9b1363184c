// Whatever fails, and however: every call ends, within its deadline and its attempts.
import { createServer } from 'node:net'
import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { chunk, type FaultConnection, type FaultServer, responseHead, sse, startFaultServer } from '@millrace/testkit'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'

const stream = responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
const delta = (content: string): string => chunk(sse([{ id: 'c', model: 'm', choices: [{ index: 0, delta: { content } }] }]))
const refusal = (status: number, headers: Readonly<Record<string, string>> = {}) => {
  const body = JSON.stringify({ error: { message: 'no', type: 'error', code: 'refused' } })
  return responseHead(status, { 'content-type': 'application/json', 'content-length': body.length, ...headers }) + body
}

/** What each server does with every request. */
const faults: Readonly<Record<string, (connection: FaultConnection) => void | Promise<void>>> = {
  'an error': (connection) => connection.write(refusal(500)),
  overload: (connection) => connection.write(refusal(503, { 'retry-after': '0' })),
  'a limit, soon over': (connection) => connection.write(refusal(429, { 'retry-after-ms': '20' })),
  'a limit, long': (connection) => connection.write(refusal(429, { 'retry-after': '30' })),
  'a wrong key': (connection) => connection.write(refusal(401)),
  silence: () => {},
  'a reset': (connection) => connection.reset(),
  'a head, then silence': (connection) => connection.write(stream),
  'a stream of comments': async (connection) => {
    await connection.write(stream)
    for (;;) {
      await connection.write(chunk(': still here\n\n'))
      await connection.pause(10)
    }
  },
  'an error in a stream': (connection) =>
    connection.write(stream + chunk(sse([{ error: { message: 'no', code: 500 } }])) + chunk('')),
  'a stream that ends early': async (connection) => {
    await connection.write(stream + delta('some'))
    connection.end()
  },
  'content, then silence': (connection) => connection.write(stream + delta('some')),
  'no JSON': (connection) => connection.write(responseHead(200, { 'content-type': 'text/html', 'content-length': 4 }) + '<p/>')
}
const names = [...Object.keys(faults), 'no server']

const servers = new Map<string, FaultServer>()
const seen = new Map<string, number>()
let nobody = ''

beforeAll(async () => {
  for (const [name, act] of Object.entries(faults)) {
    const server = await startFaultServer(async (connection) => {
      for (;;) {
        const { body } = await connection.request()
        const { messages } = JSON.parse(body) as { messages: { content: string }[] }
        const call = messages[0]?.content ?? ''
        seen.set(call, (seen.get(call) ?? 0) + 1)
        await act(connection)
      }
    })
    servers.set(name, server)
  }
  const closed = createServer()
  await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve))
  nobody = `http://127.0.0.1:${(closed.address() as { port: number }).port}`
  await new Promise((resolve) => closed.close(resolve))
})
afterAll(() => Promise.all(Array.from(servers.values(), (server) => server.close())))

const maxAttempts = 2
const scenario = fc.record({
  chain: fc.array(fc.constantFrom(...names), { minLength: 1, maxLength: 4 }),
  calls: fc.array(fc.record({ totalMs: fc.integer({ min: 20, max: 250 }), streamed: fc.boolean() }), {
    minLength: 1,
    maxLength: 6
  }),
  limited: fc.boolean(),
  balance: fc.constantFrom('ordered' as const, 'weighted' as const)
})

test('with all providers failing every call ends, within its deadline and its attempts', async () => {
  let number = 0
  await fc.assert(
    fc.asyncProperty(scenario, async ({ chain, calls, limited, balance }) => {
      const adapter = createAdapter({
        provider: chain.map((name, index) => ({
          name: `${index} ${name}`,
          provider: openai({ apiKey: 'k', baseURL: `${servers.get(name)?.url ?? nobody}/v1` })
        })),
        fallback: { balance, patienceMs: 30 },
        transport: { retry: { maxAttempts, baseMs: 1, maxMs: 5 } },
        ...(limited ? { limits: { limits: [{ by: 'provider' as const, concurrency: 2, requestsPerMinute: 600 }] } } : {})
      })
      const base = number
      number += calls.length
      const ends = await Promise.all(
        calls.map(async ({ totalMs, streamed }, index) => {
          const messages = [{ role: 'user' as const, content: `call ${base + index}` }]
          // Judged by a bare timer set at the same moment, and by which of the two is first: both are as late as this process is.
          let isOver = false
          const inTime = new Promise<boolean>((resolve) => {
            setTimeout(() => setTimeout(() => resolve(isOver), 5), totalMs + 50)
          })
          const asked = { timeouts: { totalMs } }
          const answer = streamed
            ? adapter.stream({ model: 'm', messages }, asked).completion()
            : adapter.complete({ model: 'm', messages }, asked)
          const error: unknown = await answer.then(
            () => undefined,
            (reason: unknown) => reason
          )
          isOver = true
          return { error, inTime: await inTime }
        })
      )
      for (const [index, { error, inTime }] of ends.entries()) {
        expect(error).toMatchObject({ name: 'MillraceError' })
        expect(inTime, 'ended within its deadline').toBe(true)
        // A reset on a socket that had been used before is sent once more for free.
        expect(seen.get(`call ${base + index}`) ?? 0).toBeLessThanOrEqual(chain.length * (maxAttempts + 1))
      }
      expect(adapter.stats().running).toBe(0)
      expect(adapter.stats().limits?.running ?? 0).toBe(0)
      expect(adapter.stats().limits?.queued ?? 0).toBe(0)
      await adapter.close({ graceMs: 0 })
    }),
    { seed: 20261123, numRuns: 40 }
  )
}, 60_000)
