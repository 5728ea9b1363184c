import { randomUUID } from 'node:crypto'
import { channels, type HttpRequest, type HttpResponse, isMillraceError, type Layer, type Send } from '@millrace/core'

/** Tells the channels of each attempt. `owner` is asked late: it is not whole when its layers are put together. */
export function observe(owner: () => object, originOf: (url: string) => string): Layer<Send> {
  const series = randomUUID().slice(0, 8)
  let unnamed = 0
  return (next) => (request) => {
    if (!channels.attemptStart.hasSubscribers && !channels.attemptEnd.hasSubscribers) return next(request)
    // A request that belongs to no call, such as an SDK's through `fetch`, is told apart from the others under way.
    const named = request.callId === undefined ? { ...request, callId: `${series}-${++unnamed}` } : request
    return told(next, named, owner(), originOf)
  }
}

async function told(next: Send, request: HttpRequest, owner: object, originOf: (url: string) => string): Promise<HttpResponse> {
  const startedAt = performance.now()
  const { callId = '', tally: call, attempt = 1, signal } = request
  const facts = { owner, callId, call, attempt, origin: originOf(request.url) }
  channels.attemptStart.publish({ ...facts, method: request.method })
  try {
    const response = await next(request)
    channels.attemptEnd.publish({ ...facts, elapsedMs: performance.now() - startedAt, status: response.status })
    return response
  } catch (error) {
    // A deadline is told as what it is.
    const aborted = signal?.aborted === true && !isMillraceError(error, 'timeout')
    channels.attemptEnd.publish({ ...facts, elapsedMs: performance.now() - startedAt, error, aborted })
    throw error
  }
}
