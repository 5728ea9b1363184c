import {
  type AttemptEnd,
  type AttemptStart,
  type CacheLookup,
  type CallContent,
  type CallEnd,
  type CallStart,
  inputTokens,
  isMillraceError,
  outputTokens
} from '@millrace/core'
import type { CallRecord, RecordedSpan, Told } from './recorder.ts'

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

/** A batch makes many attempts in one request. */
const maxAttempts = 32
/** Models and paths come from outside. */
const maxChars = 120

/** What is known of one request so far. A class, for it is told of each message of its calls. */
export class RecordedCall {
  readonly id: string
  readonly #path: string
  readonly #arrivedAt: number
  readonly #at: number
  /** By routes, which know better, and by calls. */
  readonly #told: Mutable<Told> = {}
  readonly #heard: Mutable<Told> = {}
  readonly #attempts: (Mutable<RecordedSpan> & { readonly key: string })[] = []
  #attemptsMade = 0
  #cache: RecordedSpan | undefined
  #limits: RecordedSpan | undefined
  #callStartedMs: number | undefined
  #callEndedMs: number | undefined
  #callsRunning = 0
  #hasFailed = false
  #input = 0
  #output = 0
  #cost: number | undefined
  #saved: number | undefined
  #status: number | undefined
  #outcome: CallRecord['outcome'] = 'running'
  #totalMs: number | undefined

  constructor({ id, path, arrivedAt }: { readonly id: string; readonly path: string; readonly arrivedAt: number }) {
    this.id = id
    this.#path = path.slice(0, maxChars)
    this.#arrivedAt = arrivedAt
    this.#at = Date.now() - (performance.now() - arrivedAt)
  }

  /** The response is out, and so is all that it asked for. */
  get isOver(): boolean {
    return this.#totalMs !== undefined && this.#callsRunning === 0
  }

  tell(told: Told): void {
    Object.assign(this.#told, whatIsSet(told))
  }

  end(status: number, outcome: 'success' | 'error' | 'aborted'): void {
    if (this.#totalMs !== undefined) return
    this.#status = status
    this.#outcome = outcome
    this.#totalMs = this.#now()
  }

  started({ call, startedAt, request, stream }: CallStart): void {
    if (call.isPart) return
    this.#callsRunning++
    this.#callStartedMs ??= Math.max(0, startedAt - this.#arrivedAt)
    this.#heard.model = request.model
    this.#heard.stream = stream
  }

  received({ call, gapMs, elapsedMs, start }: CallContent): void {
    if (gapMs !== undefined || call.isPart) return
    this.#heard.firstTextMs ??= (this.#callStartedMs ?? 0) + elapsedMs
    if (start !== undefined) this.#heard.provider = start.provider
  }

  finished(end: CallEnd): void {
    if (end.call.isPart) return
    const { usage, cost, saved, provider, overheadMs, outcome } = end
    this.#callsRunning--
    this.#callEndedMs = this.#now()
    // Lines of a batch fail by themselves, and wait beside each other.
    const isWhole = end.callId === this.id
    this.#hasFailed ||= isWhole && outcome === 'error'
    if (provider !== undefined) this.#heard.provider = provider
    if (isWhole && overheadMs !== undefined) this.#heard.overheadMs = overheadMs
    if (typeof cost === 'number') this.#cost = (this.#cost ?? 0) + cost
    if (saved !== undefined) this.#saved = (this.#saved ?? 0) + saved
    if (usage !== undefined) {
      this.#heard.inputTokens = this.#input += inputTokens(usage)
      this.#heard.outputTokens = this.#output += outputTokens(usage)
    }
    if (isWhole) this.#limits ??= this.#limitsOf(end)
  }

  attemptStarted({ callId, attempt, origin }: AttemptStart): void {
    this.#attemptsMade++
    if (this.#attempts.length >= maxAttempts) return
    this.#attempts.push({ key: `${callId} ${attempt} ${origin}`, name: `attempt ${this.#attemptsMade}`, startMs: this.#now() })
  }

  attemptEnded({ callId, attempt, origin, status, error, aborted }: AttemptEnd): void {
    const span = this.#attempts.findLast(({ key, endMs }) => key === `${callId} ${attempt} ${origin}` && endMs === undefined)
    if (span === undefined) return
    span.endMs = this.#now()
    span.told = aborted === true ? 'aborted' : error === undefined ? String(status) : codeOf(error)
    span.failed = aborted !== true && (error !== undefined || (status ?? 0) >= 400)
  }

  /** Told late where another's call was joined: with the first content of that. */
  lookedUp({ callId, state, elapsedMs }: CacheLookup): void {
    if (callId === this.id) this.#heard.cache = state
    const now = this.#now()
    if (state === 'joined') {
      this.#cache ??= { name: 'cache', startMs: this.#callStartedMs ?? Math.max(0, now - elapsedMs), endMs: now, told: state }
      return
    }
    const endMs = Math.min(now, this.#attempts[0]?.startMs ?? now)
    this.#cache ??= { name: 'cache', startMs: Math.max(0, endMs - elapsedMs), endMs, told: state }
  }

  record(): CallRecord {
    const { waitedMs: _, isShared, ...told } = this.#told
    const heard = {
      ...this.#heard,
      attempts: this.#attemptsMade,
      cost: this.#cost,
      saved: this.#saved
    }
    const facts: Mutable<Partial<CallRecord>> = { ...(isShared !== true && heard), ...told }
    const firstTextMs = facts.stream === true ? (facts.firstTextMs ?? this.#firstOfDoor()) : undefined
    const outcome = this.#outcome === 'success' && this.#hasFailed ? 'error' : this.#outcome
    return {
      ...facts,
      id: this.id,
      at: this.#at,
      path: this.#path,
      model: facts.model?.slice(0, maxChars),
      status: this.#status,
      outcome,
      totalMs: this.#totalMs,
      firstTextMs,
      spans: isShared === true ? [] : this.#spans(firstTextMs)
    }
  }

  #now(): number {
    return performance.now() - this.#arrivedAt
  }

  /** Of the last attempt, for those before it did not answer. A `fetch` door tells no more of a stream than that. */
  #firstOfDoor(): number | undefined {
    const last = this.#attempts.at(-1)
    return this.#callStartedMs === undefined && last?.failed === false ? last.endMs : undefined
  }

  /** By its note, or by the error where it let nothing through. */
  #limitsOf({ notes, error }: CallEnd): RecordedSpan | undefined {
    const waitedMs = notes.limits?.waitedMs
    const first = this.#attempts[0]?.startMs
    if (typeof waitedMs === 'number' && first !== undefined) {
      return { name: 'limits', startMs: Math.max(0, first - waitedMs), endMs: first }
    }
    if (first !== undefined || !isMillraceError(error) || !limitCodes.has(error.code)) return undefined
    return { name: 'limits', startMs: this.#callStartedMs ?? 0, endMs: this.#callEndedMs, told: codeOf(error), failed: true }
  }

  /** As its route told. What was sent to nobody was refused behind the wait. */
  #waited(): RecordedSpan | undefined {
    const { waitedMs } = this.#told
    if (waitedMs === undefined) return undefined
    const sentMs = this.#attempts[0]?.startMs
    const endMs = sentMs ?? this.#totalMs ?? this.#now()
    return { name: 'limits', startMs: Math.max(0, endMs - waitedMs), endMs, ...(sentMs === undefined && { failed: true }) }
  }

  /** In the order in which they ended; nothing runs on when the response is out. */
  #spans(firstTextMs: number | undefined): readonly RecordedSpan[] {
    const lastMs = this.#totalMs
    const spans: RecordedSpan[] = [this.#cache, this.#limits ?? this.#waited()].filter((span) => span !== undefined)
    spans.push(...this.#attempts.map(({ key: _, ...span }) => span))
    if (firstTextMs !== undefined) {
      spans.push({ name: 'first text', startMs: 0, endMs: firstTextMs })
      spans.push({ name: 'stream', startMs: firstTextMs, endMs: this.#callEndedMs ?? lastMs })
    }
    spans.sort((a, b) => (a.endMs ?? Number.MAX_VALUE) - (b.endMs ?? Number.MAX_VALUE))
    if (lastMs === undefined) return spans
    return spans.flatMap((span) => (span.startMs > lastMs ? [] : [{ ...span, endMs: Math.min(span.endMs ?? lastMs, lastMs) }]))
  }
}

/** What a limit of ours refuses with. */
const limitCodes: ReadonlySet<string> = new Set(['queue-full', 'quota-exceeded', 'rate-limited', 'timeout'])

/** Never a message: it may quote what was sent. */
function codeOf(error: unknown): string {
  if (isMillraceError(error, 'timeout')) return `timeout (${error.details.clock})`
  return isMillraceError(error) ? error.code : 'error'
}

function whatIsSet(told: Told): Told {
  return Object.fromEntries(Object.entries(told).filter(([, value]) => value !== undefined))
}
