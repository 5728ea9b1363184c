import { describe, expect, it } from 'vitest'
import { type Counts, duration, progressLine, startProgress } from '../src/progress.ts'

const counts: Counts = {
  total: 100,
  succeeded: 48,
  failed: 2,
  replayed: 0,
  running: 5,
  paused: false,
  inputTokens: 10_000,
  outputTokens: 2345
}

describe('progressLine', () => {
  it('tells what is done, what failed, the rate, tokens, and what is left', () => {
    expect(progressLine(counts, 5000)).toBe('50/100  2 failed  10.0/s  12.3k tokens  5 s left')
    expect(progressLine({ ...counts, paused: true }, 5000)).toContain('waiting for the provider')
    expect(progressLine({ ...counts, total: undefined, inputTokens: 0, outputTokens: 0 }, 5000)).toBe('50 done  2 failed  10.0/s')
  })

  it('does not count what an earlier run did into the rate', () => {
    expect(progressLine({ ...counts, replayed: 40 }, 5000)).toContain('2.0/s')
    expect(progressLine({ ...counts, replayed: 50 }, 5000)).toBe('50/100  2 failed  0.0/s  12.3k tokens')
  })

  it('never is wider than the terminal', () => {
    for (let columns = 1; columns < 120; columns++) expect(progressLine(counts, 5000, columns).length).toBeLessThan(columns)
    expect(progressLine(counts, 5000, 120)).toMatch(/^█{15}░{15} 50\/100/)
  })
})

describe('startProgress', () => {
  it('redraws one line on a terminal, at most ten times a second, and leaves it', async () => {
    const written: string[] = []
    const output = { isTTY: true, columns: 80, write: (text: string) => written.push(text) }
    const startedAt = performance.now()
    const progress = startProgress(output, 'text', () => counts)
    await new Promise((resolve) => setTimeout(resolve, 250))
    progress.say('a word')
    progress.close()
    progress.close()
    const most = (performance.now() - startedAt) / 100 + 3
    expect(written.length).toBeGreaterThanOrEqual(3)
    expect(written.length).toBeLessThanOrEqual(most)
    expect(written).toContain('\r\u001b[2Ka word\n')
    expect(written.at(-1)).toBe('\n')
  })

  it('tells programs one JSON object a line, the last one at the end, and nothing when it is quiet', () => {
    const written: string[] = []
    const output = { isTTY: true, write: (text: string) => written.push(text) }
    startProgress(output, 'none', () => counts).close()
    expect(written).toEqual([])
    startProgress(output, 'json', () => counts).close()
    expect(written).toHaveLength(1)
    expect(JSON.parse(written[0] ?? '')).toMatchObject({
      total: 100,
      done: 50,
      succeeded: 48,
      failed: 2,
      running: 5,
      inputTokens: 10_000
    })
  })
})

it.each([
  [4000, '4 s'],
  [65_000, '1 min 5 s'],
  [3_725_000, '1 h 2 min']
])('%d ms are %s', (ms, text) => {
  expect(duration(ms)).toBe(text)
})
