import {
  clampTimer,
  type HttpRequest,
  type HttpResponse,
  isMillraceError,
  type LinkedAbort,
  linkAbort,
  MillraceError,
  type Send
} from '@millrace/core'
import { endingBody } from './ending-body.ts'
import type { Latencies } from './latencies.ts'
import { isPassing, statusOf } from './status.ts'

/** One of the two requests. */
interface Runner {
  readonly linked: LinkedAbort
  readonly second: boolean
}

/** How one of them failed: a response that is a refusal, or an error. */
type Failure = { readonly runner: Runner } & ({ readonly response: HttpResponse } | { readonly error: unknown })

export interface RaceOptions {
  readonly delayMs: number
  readonly spend: (request: HttpRequest) => boolean
  readonly onWon: () => void
}

/** Sends the request, once more when it is slow and `spend` agrees, and settles with the better of the two. */
export function race(
  next: Send,
  request: HttpRequest,
  route: Latencies,
  { delayMs, spend, onWon }: RaceOptions
): Promise<HttpResponse> {
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
    else if (isPassing(statusOf(response))) failed({ runner, response })
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
    const free = (): void => runner.linked[Symbol.dispose]()
    let { body } = response
    if (body.complete === true) free()
    else if (signal !== undefined) body = endingBody(body, free)
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
