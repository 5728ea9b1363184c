import { expect, test } from 'vitest'
import { quantile, type Run, table } from '../src/report.ts'
import { createWorkload } from '../src/workload.ts'

test('the same seed gives the same workload, with repeats as real ones have them', () => {
  const workload = createWorkload({ calls: 400, perSecond: 30 })
  expect(workload).toEqual(createWorkload({ calls: 400, perSecond: 30 }))
  expect(workload).not.toEqual(createWorkload({ calls: 400, perSecond: 30, seed: 8 }))
  const distinct = new Set(workload.map(({ messages }) => JSON.stringify(messages)))
  expect(distinct.size).toBeGreaterThan(35)
  expect(distinct.size).toBeLessThan(60)
  expect(workload.at(-1)?.startMs).toBeGreaterThan(10_000)
  for (const { messages } of workload) expect(messages.at(-1)?.role).toBe('user')
})

test('the table has a row for each figure', () => {
  const call = (ms: number): Run['calls'][number] => ({
    firstTextMs: ms,
    totalMs: ms * 2,
    requests: 1,
    refused: 0,
    tokensIn: 3,
    text: ''
  })
  const run: Run = { calls: [call(10), call(20), call(30)], wallMs: 1234, upstreamRequests: 3, socketsOpened: 1, tokensIn: 9000 }
  const text = table(run, { ...run, upstreamRequests: 1 })
  for (const row of [
    'calls answered',
    'calls sent upstream',
    'sockets opened',
    'tokens in',
    'time to first text, p50',
    'time to first text, p99',
    'whole answer, p50',
    'whole answer, p99',
    'total'
  ]) {
    expect(text).toContain(row)
  }
  expect(text).toMatch(/calls sent upstream +3 +1\n/)
  expect(text).toMatch(/tokens in +9,000 +9,000\n/)
  expect([
    quantile(run, 'firstTextMs', 0.5),
    quantile(run, 'totalMs', 0.99),
    quantile({ ...run, calls: [] }, 'totalMs', 0.5)
  ]).toEqual(['20 ms', '60 ms', '-'])
})
