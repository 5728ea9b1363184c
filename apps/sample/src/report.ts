import type { CallResult } from './caller.ts'

/** One side of the comparison. */
export interface Run {
  readonly calls: readonly CallResult[]
  readonly wallMs: number
  /** Requests the provider got. */
  readonly upstreamRequests: number
  readonly socketsOpened: number
  /** Input tokens the provider counted. */
  readonly tokensIn: number
}

/** The comparison as a table of fixed width. */
export function table(plain: Run, millrace: Run): string {
  const rows: readonly (readonly [name: string, plain: string, millrace: string])[] = [
    ['calls answered', count(plain.calls.length), count(millrace.calls.length)],
    ['calls sent upstream', count(plain.upstreamRequests), count(millrace.upstreamRequests)],
    ['sockets opened', count(plain.socketsOpened), count(millrace.socketsOpened)],
    ['tokens in', count(plain.tokensIn), count(millrace.tokensIn)],
    ['time to first text, p50', ...both((run) => quantile(run, 'firstTextMs', 0.5))],
    ['time to first text, p99', ...both((run) => quantile(run, 'firstTextMs', 0.99))],
    ['whole answer, p50', ...both((run) => quantile(run, 'totalMs', 0.5))],
    ['whole answer, p99', ...both((run) => quantile(run, 'totalMs', 0.99))],
    ['total', ...both((run) => `${(run.wallMs / 1000).toFixed(1)} s`)]
  ]
  function both(figure: (run: Run) => string): [string, string] {
    return [figure(plain), figure(millrace)]
  }
  const line = (name: string, left: string, right: string): string =>
    `  ${name.padEnd(26)}${left.padStart(14)}${right.padStart(14)}`
  const rule = `  ${'─'.repeat(54)}`
  return [line('', 'plain fetch', 'Millrace'), rule, ...rows.map((row) => line(...row)), rule].join('\n')
}

/** The value that this share of the calls stays at or below (nearest rank). */
export function quantile({ calls }: Run, field: 'firstTextMs' | 'totalMs', share: number): string {
  const sorted = calls.map((call) => call[field]).toSorted((a, b) => a - b)
  const value = sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)]
  return value === undefined ? '-' : `${Math.round(value).toLocaleString('en')} ms`
}

function count(value: number): string {
  return value.toLocaleString('en')
}

/** A bar on a terminal; elsewhere a line at the end, so that logs stay readable. */
export function createProgress(title: string, total: number, output: NodeJS.WriteStream): { step(): void; end(): void } {
  let done = 0
  const width = 30
  function draw(): void {
    const filled = Math.round((done / total) * width)
    output.write(`\r  ${title.padEnd(12)} ${'█'.repeat(filled)}${'░'.repeat(width - filled)} ${done}/${total}`)
  }
  if (output.isTTY) draw()
  return {
    step() {
      done++
      if (output.isTTY) draw()
    },
    end() {
      output.write(output.isTTY ? '\n' : `  ${title.padEnd(12)} ${done}/${total} calls\n`)
    }
  }
}
