import { checkOptions, type HttpRequest, type HttpResponse, type Layer, type Send } from '@millrace/core'
import { Latencies, maxSamples } from './latencies.ts'
import { race } from './race.ts'
import { isRepeatable } from './retry.ts'
import { isStateless } from './stateless.ts'
import { statusOf } from './status.ts'

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
  if (!(typeof maxExtra === 'number' && maxExtra > 0 && maxExtra <= 1)) {
    throw new TypeError(`maxExtra must be a share above 0 and at most 1, such as 0.05, not ${maxExtra}`)
  }
  if (!(typeof percentile === 'number' && percentile > 0 && percentile < 1)) {
    throw new TypeError(`percentile must be a share between 0 and 1, such as 0.95, not ${percentile}`)
  }
  if (!Number.isSafeInteger(minSamples) || minSamples < 1 || minSamples > maxSamples) {
    throw new TypeError(`minSamples must be a whole number from 1 to ${maxSamples}, not ${minSamples}`)
  }
  if (!(typeof minDelayMs === 'number' && minDelayMs >= 0)) {
    throw new TypeError('minDelayMs must be a number of milliseconds from 0 up')
  }
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
    let allowed: unknown = false
    try {
      // Its type promises true or false; a function that is `async` after all says neither in time.
      allowed = eligible(request)
      if (allowed instanceof Promise) allowed.catch(() => {})
    } catch {
      // It runs on a timer, where nobody could catch it; the request goes on alone, and `refused` tells.
    }
    if (allowed !== true) {
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

const names: Readonly<Record<keyof HedgeOptions, 1>> = {
  maxExtra: 1,
  percentile: 1,
  minSamples: 1,
  minDelayMs: 1,
  eligible: 1
}
