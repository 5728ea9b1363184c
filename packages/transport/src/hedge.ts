import {
  checkOptions,
  clampTimer,
  type HttpRequest,
  type HttpResponse,
  isMillraceError,
  type Layer,
  type LinkedAbort,
  linkAbort,
  MillraceError,
  type Send
} from '@millrace/core'
import { endingBody } from './ending-body.ts'
import { Latencies, maxSamples } from './latencies.ts'
import { isStateless } from './stateless.ts'

export interface HedgeOptions {
  /** Share of the requests that may be sent a second time; above 0, at most 1. @default 0.05 */
  readonly maxExtra?: number | undefined
  /** The share of a route's latest 500 answers that were faster than the wait; above 0, below 1. @default 0.95 */
  readonly percentile?: number | undefined
  /** Answers to see on a route before any of its requests is sent again; at most 500. @default 50 */
  readonly minSamples?: number | undefined
  /** The shortest wait before the second request: below, a blocked event loop looks like a slow server. @default 10 */
  readonly minDelayMs?: number | undefined
  /**
   * Which slow requests may be sent again; asked when it is about to happen. The default knows the paths and bodies that
   * ask a model and leave nothing behind: not stored answers, conversations, files or batches, nor tools that the provider
   * runs. @default isStateless
   */
  readonly eligible?: ((request: HttpRequest) => boolean) | undefined
}

export interface HedgeStats {
  /** Second requests sent. */
  readonly hedges: number
  /** Of them, those that answered first. */
  readonly won: number
  /** Slow requests not sent again for `eligible` said no, or threw. */
  readonly refused: number
}

export interface Hedge {
  readonly layer: Layer<Send>
  stats(): HedgeStats
}

/** Of more routes, the one not asked for the longest time is forgotten. */
const maxRoutes = 100

/** Second requests that may be saved up in quiet times, so that a slow minute does not double its load. */
const maxSaved = 10

/** The budget is counted in whole millionths: no sum of fractions that drifts over the cap. */
const oneHedge = 1_000_000

/**
 * Sends a request that is slower than most of its route once more, beside the first, and takes the content that comes
 * first; the other one's socket is closed. A route is a method and a URL without its query. It needs a `Send` that resolves
 * with the first content, as the transport's does: over one that resolves with the head, a race is won by the faster head.
 *
 * The budget begins empty, so the extra requests are never more than `maxExtra` of all, and at most ten are saved up. An
 * answer of 408, 429 or 5xx, and an error, wait for the other request; when both fail, the failure that came first is
 * told. A body that can be read only once is never sent again, nor is a request that still waits for a socket.
 *
 * @throws {TypeError} for options that make no sense
 *
 * @example
 * const hedge = createHedge({ maxExtra: 0.02 })
 * const send = pipe(transport.send, hedge.layer)
 */
export function createHedge(options: HedgeOptions = {}): Hedge {
  checkOptions<HedgeOptions>('createHedge', options, names)
  const { maxExtra = 0.05, percentile = 0.95, minSamples = 50, minDelayMs = 10, eligible = isStateless } = options
  if (!(maxExtra > 0 && maxExtra <= 1)) {
    throw new TypeError(`maxExtra must be a share above 0 and at most 1, such as 0.05, not ${maxExtra}`)
  }
  if (!(percentile > 0 && percentile < 1)) {
    throw new TypeError(`percentile must be a share between 0 and 1, such as 0.95, not ${percentile}`)
  }
  if (!Number.isSafeInteger(minSamples) || minSamples < 1 || minSamples > maxSamples) {
    throw new TypeError(`minSamples must be a whole number from 1 to ${maxSamples}, not ${minSamples}`)
  }
  if (!(minDelayMs >= 0)) throw new TypeError(`minDelayMs must be a number of milliseconds from 0 up, not ${minDelayMs}`)
  if (typeof eligible !== 'function') {
    throw new TypeError('eligible must be a function from a request to whether it may be sent twice')
  }

  const share = Math.floor(maxExtra * oneHedge)
  const routes = new Map<string, Latencies>()
  let lastUrl: string | undefined
  let lastMethod: string | undefined
  let lastRoute: Latencies | undefined
  let budget = 0
  let hedges = 0
  let won = 0
  let refused = 0

  /** Nearly all requests go to one URL: the last one is not looked up again. */
  function routeOf({ method, url }: HttpRequest): Latencies {
    if (lastRoute !== undefined && url === lastUrl && method === lastMethod) return lastRoute
    const query = url.search(/[?#]/)
    const name = `${method} ${query === -1 ? url : url.slice(0, query)}`
    const route = routes.get(name) ?? new Latencies(percentile, minSamples)
    // Deleted and set again, the map keeps them in the order of their last use.
    routes.delete(name)
    if (routes.size >= maxRoutes) {
      const [oldest = ''] = routes.keys()
      routes.delete(oldest)
    }
    routes.set(name, route)
    lastUrl = url
    lastMethod = method
    lastRoute = route
    return route
  }

  /** Asked with a slow request in hand: takes its price from the budget. */
  function spend(request: HttpRequest): boolean {
    if (budget < oneHedge) return false
    let allowed = false
    try {
      allowed = eligible(request)
    } catch {
      // It runs on a timer, where nobody could catch it; the request goes on alone, and `refused` tells.
    }
    if (!allowed) {
      refused++
      return false
    }
    budget -= oneHedge
    hedges++
    return true
  }

  const layer: Layer<Send> = (next) => (request) => {
    budget = Math.min(maxSaved * oneHedge, budget + share)
    const route = routeOf(request)
    const delayMs = Math.max(minDelayMs, route.percentileMs)
    if (delayMs === Number.POSITIVE_INFINITY || budget < oneHedge || !isRepeatable(request)) return alone(next, request, route)
    return race(next, request, route, { delayMs, spend, onWon: () => won++ })
  }

  return { layer, stats: () => ({ hedges, won, refused }) }
}

async function alone(next: Send, request: HttpRequest, route: Latencies): Promise<HttpResponse> {
  const startedAt = performance.now()
  const response = await next(request)
  if (statusOf(response) < 400) route.add(performance.now() - startedAt)
  return response
}

/** One of the two requests. */
interface Runner {
  readonly linked: LinkedAbort
  readonly second: boolean
}

/** How one of them failed: a response that is a refusal, or an error. */
type Failure = { readonly runner: Runner } & ({ readonly response: HttpResponse } | { readonly error: unknown })

interface RaceOptions {
  readonly delayMs: number
  readonly spend: (request: HttpRequest) => boolean
  readonly onWon: () => void
}

function race(next: Send, request: HttpRequest, route: Latencies, { delayMs, spend, onWon }: RaceOptions): Promise<HttpResponse> {
  const { signal, attempt = 1 } = request
  const { promise, resolve, reject } = Promise.withResolvers<HttpResponse>()
  const startedAt = performance.now()
  let over = false
  let second: Runner | undefined
  let earlier: Failure | undefined
  let timer: NodeJS.Timeout | undefined
  let check: NodeJS.Immediate | undefined

  function start(runner: Runner, leg: HttpRequest): Runner {
    attempted(next, { ...leg, signal: runner.linked.signal }).then(
      (response) => answered(runner, response),
      (error: unknown) => {
        runner.linked[Symbol.dispose]()
        if (!over) failed({ runner, error }) // else it is the loser, and the error the echo of our abort
      }
    )
    return runner
  }

  function answered(runner: Runner, response: HttpResponse): void {
    if (over) drop(runner, response)
    else if (isRetryable(statusOf(response))) failed({ runner, response })
    else win(runner, response)
  }

  function win(runner: Runner, response: HttpResponse): void {
    end()
    // The time of the call, not of the winner: else each hedge would shorten the wait for the next one.
    if (statusOf(response) < 400) route.add(performance.now() - startedAt)
    if (runner.second) onWon()
    if (earlier !== undefined) discard(earlier)
    else if (second !== undefined) lose(runner.second ? first : second)
    resolve(handOn(runner, response))
  }

  function failed(failure: Failure): void {
    const aborted = signal?.aborted === true
    if (second !== undefined && earlier === undefined && !aborted) {
      earlier = failure // the other one may still answer
      return
    }
    end()
    const told = aborted ? failure : (earlier ?? failure)
    if (earlier !== undefined) discard(told === earlier ? failure : earlier)
    if ('response' in told) resolve(handOn(told.runner, told.response))
    else reject(second === undefined ? told.error : withAttempts(told.error, attempt + 1))
  }

  function handOn(runner: Runner, response: HttpResponse): HttpResponse {
    const body = signal === undefined ? response.body : endingBody(response.body, () => runner.linked[Symbol.dispose]())
    if (second === undefined) return { ...response, body }
    const attempts = runner.second ? Math.max(response.attempts, attempt + 1) : response.attempts + 1
    return { ...response, body, attempts, hedge: runner.second ? 'won' : 'lost' }
  }

  function end(): void {
    over = true
    clearTimeout(timer)
    clearImmediate(check)
  }

  // The process is kept alive by the request under way; without one there is nothing to wait for.
  function wait(): void {
    timer = setTimeout(() => {
      // After a blocked event loop, timers run before the sockets are read: let what has already arrived be seen first.
      check = setImmediate(hedge)
    }, clampTimer(delayMs)).unref()
  }

  function hedge(): void {
    if (signal?.aborted === true) return
    // Slow for our own queue: a second one would only wait behind it.
    if (request.deadline?.queued === true) wait()
    // Without the deadline: it would tell the first one's time as the queue's, should the second one have to wait.
    else if (spend(request)) {
      second = { linked: linkAbort(signal), second: true }
      start(second, { ...request, attempt: attempt + 1, deadline: undefined })
    }
  }

  const first = start({ linked: linkAbort(signal), second: false }, request)
  wait()
  return promise
}

/** Its socket closes, whatever it waits for; what still comes of it finds the race over. */
function lose({ linked }: Runner): void {
  linked.abort(new MillraceError('closed', 'the other request of this call answered first', { details: {} }))
  linked[Symbol.dispose]()
}

function discard(failure: Failure): void {
  if ('response' in failure) drop(failure.runner, failure.response)
}

function drop({ linked }: Runner, response: HttpResponse): void {
  linked[Symbol.dispose]()
  response.body.cancel()
}

/** A `Send` that throws instead of rejecting is still only a failed request. */
async function attempted(next: Send, request: HttpRequest): Promise<HttpResponse> {
  return next(request)
}

/** Both failed: whoever reads the error counts both requests. */
function withAttempts(error: unknown, made: number): unknown {
  if (!isMillraceError(error)) return error
  const open = error as { context: typeof error.context }
  open.context = { ...error.context, attempt: Math.max(made, error.context.attempt ?? 0) }
  return error
}

function isRepeatable({ body }: HttpRequest): boolean {
  return body === undefined || typeof body === 'string' || body instanceof Uint8Array
}

function statusOf({ refusal, status }: HttpResponse): number {
  return refusal ?? status
}

/** Another request may do better; any other refusal would be the same. */
function isRetryable(status: number): boolean {
  return status === 408 || status === 429 || status >= 500
}

const names: Readonly<Record<keyof HedgeOptions, 1>> = {
  maxExtra: 1,
  percentile: 1,
  minSamples: 1,
  minDelayMs: 1,
  eligible: 1
}
