/** What a batch has done so far. */
export interface Counts {
  /** Absent while nobody knows, as with stdin. */
  readonly total: number | undefined
  readonly succeeded: number
  readonly failed: number
  /** Of those, taken over from an earlier run. */
  readonly replayed: number
  readonly running: number
  /** A limit has stopped all of it for a while. */
  readonly paused: boolean
  readonly inputTokens: number
  readonly outputTokens: number
}

export interface ProgressOutput {
  readonly isTTY?: boolean | undefined
  readonly columns?: number | undefined
  write(text: string): unknown
}

export interface Progress {
  /** A line above the bar. */
  say(line: string): void
  /** Shows the last counts and stops. Safe to call twice. */
  close(): void
}

/**
 * Tells on `output` how a batch goes: one line that is redrawn ten times a second on a terminal, a line every ten seconds
 * elsewhere, or one JSON object a second.
 */
export function startProgress(output: ProgressOutput, style: 'text' | 'json' | 'none', read: () => Counts): Progress {
  const startedAt = performance.now()
  const bar = style === 'text' && output.isTTY === true
  const everyMs = bar ? 100 : style === 'json' ? 1000 : 10_000
  const timer = style === 'none' ? undefined : setInterval(draw, everyMs).unref()
  let closed = false

  function draw(): void {
    const elapsedMs = performance.now() - startedAt
    const counts = read()
    if (style === 'json') output.write(`${JSON.stringify(progressJson(counts, elapsedMs))}\n`)
    else if (bar) output.write(`\r\u001b[2K${progressLine(counts, elapsedMs, output.columns ?? 80)}`)
    else output.write(`${progressLine(counts, elapsedMs)}\n`)
  }

  return {
    say(line) {
      output.write(bar && !closed ? `\r\u001b[2K${line}\n` : `${line}\n`)
    },
    close() {
      if (closed) return
      closed = true
      clearInterval(timer)
      if (style === 'json') draw()
      if (!bar) return
      draw()
      output.write('\n')
    }
  }
}

/** Of the items that this run has done: those taken over took no time. */
function perSecond({ succeeded, failed, replayed }: Counts, elapsedMs: number): number {
  return elapsedMs > 0 ? ((succeeded + failed - replayed) / elapsedMs) * 1000 : 0
}

function leftMs(counts: Counts, elapsedMs: number): number | undefined {
  const rate = perSecond(counts, elapsedMs)
  if (counts.total === undefined || rate === 0) return undefined
  return Math.max(0, ((counts.total - counts.succeeded - counts.failed) / rate) * 1000)
}

/** One object a line, for programs. */
function progressJson(counts: Counts, elapsedMs: number): object {
  const { total, succeeded, failed, replayed, running, paused, inputTokens, outputTokens } = counts
  const eta = leftMs(counts, elapsedMs)
  return {
    total: total ?? null,
    done: succeeded + failed,
    succeeded,
    failed,
    replayed,
    running,
    paused,
    inputTokens,
    outputTokens,
    perSecond: Math.round(perSecond(counts, elapsedMs) * 100) / 100,
    elapsedMs: Math.round(elapsedMs),
    leftMs: eta === undefined ? null : Math.round(eta)
  }
}

/**
 * One line of at most `columns` signs, with a bar where there is room for one.
 *
 * @example
 * progressLine(counts, 5000, 80) // ██████░░░░░░ 50/100  1 failed  10.0/s  12.3k tokens  5 s left
 */
export function progressLine(counts: Counts, elapsedMs: number, columns?: number): string {
  const { total, succeeded, failed, paused, inputTokens, outputTokens } = counts
  const done = succeeded + failed
  const tokens = inputTokens + outputTokens
  const eta = leftMs(counts, elapsedMs)
  const facts = [
    total === undefined ? `${done} done` : `${done}/${total}`,
    failed > 0 ? `${failed} failed` : '',
    `${perSecond(counts, elapsedMs).toFixed(1)}/s`,
    tokens > 0 ? `${short(tokens)} tokens` : '',
    paused ? 'waiting for the provider' : eta === undefined ? '' : `${duration(eta)} left`
  ]
  const text = facts.filter((fact) => fact !== '').join('  ')
  if (columns === undefined) return text
  const width = Math.min(30, columns - text.length - 3)
  if (total === undefined || total === 0 || width < 8) return text.slice(0, columns - 1)
  const full = Math.round((Math.min(done, total) / total) * width)
  return `${'█'.repeat(full)}${'░'.repeat(width - full)} ${text}`
}

function short(number: number): string {
  if (number < 10_000) return String(number)
  return number < 10_000_000 ? `${(number / 1000).toFixed(1)}k` : `${(number / 1_000_000).toFixed(1)}M`
}

/** @example duration(3_725_000) // 1 h 2 min */
export function duration(ms: number): string {
  const seconds = Math.round(ms / 1000)
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`
}
