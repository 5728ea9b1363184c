import { type HttpRequest, type HttpResponse, type Layer, linkAbort, onAbort, type Send, startDeadline } from '@millrace/core'
import { endingBody } from './ending-body.ts'

/**
 * Holds a request to `timeouts.totalMs`, from the queue to the last byte of the body, over all attempts. A request whose
 * deadline is held further out is held to no other than it asks for.
 */
export function withTotal(defaultMs: number): Layer<Send> {
  return (next) => (request) => {
    const totalMs = request.timeouts?.totalMs ?? (request.deadline === undefined ? defaultMs : Number.POSITIVE_INFINITY)
    return totalMs === Number.POSITIVE_INFINITY ? next(request) : within(totalMs, next, request)
  }
}

async function within(totalMs: number, next: Send, request: HttpRequest): Promise<HttpResponse> {
  const linked = linkAbort(request.signal)
  const deadline = startDeadline('total', totalMs, (error) => linked.abort(error))
  let off: (() => void) | undefined
  function end(): void {
    deadline[Symbol.dispose]()
    linked[Symbol.dispose]()
    off?.()
  }
  try {
    const response = await next({ ...request, signal: linked.signal, deadline })
    if (response.body.complete === true) {
      end()
      return response
    }
    // Once it is over nothing is left to guard, also when nobody reads the body any more.
    off = onAbort(linked.signal, end)
    return { ...response, body: endingBody(response.body, end) }
  } catch (error) {
    end()
    throw error
  }
}
