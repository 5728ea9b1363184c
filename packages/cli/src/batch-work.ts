import type { BatchContext } from '@millrace/batch'
import {
  type HttpResponse,
  isJsonObject,
  isMillraceError,
  type Json,
  MillraceError,
  parseJson,
  redactCredentials,
  type Send
} from '@millrace/core'
import { readRefusal, retryAfterMs } from '@millrace/transport'
import type { BrokenLine, Item } from './batch-line.ts'
import type { Answer } from './batch-result.ts'
import { type Endpoint, urlOf } from './endpoint.ts'
import { Exit } from './exit.ts'

/** Counts of what this run has sent. */
export interface WorkCounts {
  /** Requests that are on their way. */
  running: number
  answered: number
  inputTokens: number
  outputTokens: number
}

export interface BatchWork {
  /** Sends one item. What cannot be answered now is thrown, and `pause` then knows for how long. */
  run(item: Item | BrokenLine, context: BatchContext): Promise<Answer>
  pause(error: unknown): number | undefined
  readonly counts: Readonly<WorkCounts>
  /** A limit has stopped all of it for a while. */
  readonly paused: boolean
  /**
   * Starts nothing more, lets what runs go on for `graceMs`, and then aborts `signal` with `exit`. The first reason counts.
   */
  stop(exit: Exit, graceMs?: number): void
  /** What `stop` was told first. */
  readonly stopped: Exit | undefined
  readonly signal: AbortSignal
  /** Of the timer of `stop`. */
  close(): void
}

export interface WorkOptions {
  readonly send: Send
  readonly endpoint: Endpoint
  readonly timeoutMs: number
  readonly graceMs: number
}

/** How often an item waits for a limit; with 100 waits it is the provider that does not want it. */
export const maxPauses = 100
/** How often it waits for a provider that cannot be reached, or is down and does not say for how long: six minutes or more. */
const maxOutages = 10
/** Longer than a batch that is stopping. */
const foreverMs = 3_600_000

export function createBatchWork({ send, endpoint, timeoutMs, graceMs }: WorkOptions): BatchWork {
  const controller = new AbortController()
  const pauses = new WeakMap<object, number>()
  const counts: WorkCounts = { running: 0, answered: 0, inputTokens: 0, outputTokens: 0 }
  let pausedUntil = 0
  const { base, secret } = endpoint
  /** Somebody has answered, if only to say no: the address is right. */
  let reached = false
  let stopped: Exit | undefined
  let grace: NodeJS.Timeout | undefined

  /** An error behind which nothing starts for a while; the item is not done. */
  function paused<T extends object>(error: T, ms: number): T {
    pauses.set(error, ms)
    if (stopped === undefined) pausedUntil = Math.max(pausedUntil, performance.now() + ms)
    return error
  }

  /** Behind the turn, so that the last answer has reached the batch. */
  function end(): void {
    if (stopped === undefined) return
    setImmediate(() => {
      if (counts.running === 0) controller.abort(stopped)
    })
  }

  function stop(exit: Exit, ms = graceMs): void {
    if (stopped !== undefined) return
    stopped = exit
    grace = setTimeout(() => controller.abort(exit), ms)
    end()
  }

  /** A refusal that all other items would get as well ends the batch: none of them is to be wasted on it. */
  function stopFor(error: Exit, ms = graceMs): never {
    stop(error, ms)
    throw paused(error, foreverMs)
  }

  async function answer(response: HttpResponse, attempt: number): Promise<Answer> {
    reached = true
    const { status, headers } = response
    const text = status < 400 ? await response.body.text() : await readRefusal(response.body)
    const json = parseJson(text)
    if (status < 300) {
      // A page of a proxy, or a stream that nobody asked for.
      if (json === undefined)
        throw new MillraceError('protocol', `the answer (${status}) is not JSON`, { details: { status, reason: 'unexpected' } })
      counts.answered++
      countTokens(json)
    } else refuse(response, json, attempt)
    return { status, requestId: clean(headers['x-request-id'] ?? headers['request-id'] ?? ''), body: oneLine(text, json) }
  }

  /** Throws what is no answer to this item, but about all of them. */
  function refuse(response: HttpResponse, json: Json | undefined, attempt: number): void {
    const { status } = response
    const name = nameOf(json)
    const told = `${status}${name === undefined ? '' : `, ${clean(name)}`}`
    if (status === 401 || (status === 403 && counts.answered === 0)) {
      stopFor(new Exit(3, `${base.host} does not accept the API key (${told}): see that the environment holds the right one`), 0)
    }
    if (status === 402 || (status === 429 && name !== undefined && exhausted.has(name))) {
      stopFor(new Exit(3, `${base.host} says that the quota is used up (${told}): raise it there`))
    }
    if (status !== 429 && status !== 503 && status !== 529) return
    const hintMs = retryAfterMs(response, json)
    if (attempt > (status === 429 || hintMs !== undefined ? maxPauses : maxOutages)) return
    const error = new MillraceError(
      status === 429 ? 'rate-limited' : 'overloaded',
      `${base.host} asks for fewer requests (${told})`,
      {
        details: { status, ...(hintMs !== undefined && { retryAfterMs: hintMs }) }
      }
    )
    throw paused(error, hintMs ?? backOffMs(attempt))
  }

  /** What was thrown on the way: a limit and a provider that is out of reach are waited for. */
  function rethrow(error: unknown, attempt: number): never {
    if (isMillraceError(error, 'rate-limited')) {
      if (error.retryable) throw paused(error, error.details.retryAfterMs ?? backOffMs(attempt))
      const told = `${error.message}: raise --tpm`
      if (counts.answered === 0) stopFor(new Exit(3, told, error))
      throw new MillraceError('rate-limited', told, { details: error.details, cause: error, retryable: false })
    }
    // It waited for its turn all the time, so nothing was sent.
    if (isMillraceError(error, 'timeout') && error.details.clock === 'queue') throw paused(error, backOffMs(attempt))
    if (isMillraceError(error, 'timeout') && error.details.clock === 'total') {
      const { details } = error
      throw new MillraceError('timeout', `no whole answer within ${timeoutMs / 1000} s (--timeout)`, { details, cause: error })
    }
    const circuit = isMillraceError(error, 'circuit-open')
    const network = isMillraceError(error, 'network') && beforeRequest.has(error.details.phase)
    if (!circuit && !network) throw error
    // An address that is wrong is wrong for all; a network that is down comes back.
    if (reached && circuit) throw paused(error, error.details.retryAfterMs)
    if (reached && error.retryable && attempt < maxOutages) throw paused(error, backOffMs(attempt))
    const why = circuit ? 'see that the address is right and the server is up' : error.message
    return stopFor(new Exit(3, `${base.host} cannot be reached: ${why}`, error), reached ? graceMs : 0)
  }

  function countTokens(json: Json): void {
    const usage = isJsonObject(json) && isJsonObject(json.usage) ? json.usage : {}
    const number = (...values: unknown[]): number => values.find((value) => typeof value === 'number') ?? 0
    counts.inputTokens += number(usage.prompt_tokens, usage.input_tokens, usage.total_tokens)
    counts.outputTokens += number(usage.completion_tokens, usage.output_tokens)
  }

  /** JSON text as it came, on one line: line breaks in it are space between its parts. What is no JSON becomes a JSON text. */
  function oneLine(text: string, json: Json | undefined): string {
    return clean(
      json === undefined
        ? JSON.stringify(redactCredentials(text))
        : text
            .replace(/^\ufeff/, '')
            .trim()
            .replace(/[\r\n]+\s*/g, '')
    )
  }

  /** Without the key, should the provider repeat it. */
  function clean(text: string): string {
    return secret === undefined
      ? text
      : text.replaceAll(secret, '[redacted]').replaceAll(JSON.stringify(secret).slice(1, -1), '[redacted]')
  }

  return {
    counts,
    signal: controller.signal,
    get paused() {
      return counts.running === 0 && performance.now() < pausedUntil
    },
    get stopped() {
      return stopped
    },
    stop,
    pause: (error) => (typeof error === 'object' && error !== null ? pauses.get(error) : undefined),
    async run(item, { attempt, idempotencyKey, signal }) {
      if (stopped !== undefined) {
        end()
        throw paused(new Error('stopping'), foreverMs)
      }
      if ('problem' in item) {
        throw new MillraceError('invalid-request', `line ${item.line} ${item.problem}`, { details: {} })
      }
      counts.running++
      try {
        const response = await send({
          method: 'POST',
          url: urlOf(base, item.path),
          headers: {
            'content-type': 'application/json',
            accept: 'application/json',
            ...endpoint.headers,
            ...(idempotencyKey !== undefined && { 'idempotency-key': idempotencyKey })
          },
          body: JSON.stringify(item.body),
          signal,
          timeouts: { totalMs: timeoutMs }
        })
        return await answer(response, attempt)
      } catch (error) {
        if (signal.aborted || pauses.has(error as object)) throw error
        return rethrow(error, attempt)
      } finally {
        counts.running--
        end()
      }
    },
    close: () => clearTimeout(grace)
  }
}

/** Nothing was sent yet. */
const beforeRequest: ReadonlySet<string> = new Set(['dns', 'connect', 'tls'])

/** Names under which providers say that money is needed, not time. */
const exhausted: ReadonlySet<string> = new Set([
  'insufficient_quota',
  'billing_hard_limit_reached',
  'billing_not_active',
  'credit_balance_too_low'
])

function backOffMs(attempt: number): number {
  return Math.min(60_000, 1000 * 2 ** (attempt - 1))
}

/** The provider's short name of an error: no prose, which may quote the prompt. */
function nameOf(json: Json | undefined): string | undefined {
  const error = isJsonObject(json) && isJsonObject(json.error) ? json.error : {}
  return [error.code, error.type].find(
    (value): value is string => typeof value === 'string' && /^[A-Za-z][\w.-]{0,63}$/.test(value)
  )
}
