import { channels, type HttpRequest, type HttpResponse, type Layer, type Send } from '@millrace/core'

/** Tells the channels of each attempt. `owner` is asked late: it is not whole when its layers are put together. */
export function observe(owner: () => object, originOf: (url: string) => string): Layer<Send> {
  return (next) => (request) => {
    if (!channels.attemptStart.hasSubscribers && !channels.attemptEnd.hasSubscribers) return next(request)
    return told(next, request, owner(), originOf)
  }
}

async function told(next: Send, request: HttpRequest, owner: object, originOf: (url: string) => string): Promise<HttpResponse> {
  const startedAt = performance.now()
  const facts = { owner, callId: request.callId ?? '', attempt: request.attempt ?? 1, origin: originOf(request.url) }
  channels.attemptStart.publish({ ...facts, method: request.method })
  try {
    const response = await next(request)
    channels.attemptEnd.publish({ ...facts, elapsedMs: performance.now() - startedAt, status: response.status })
    return response
  } catch (error) {
    channels.attemptEnd.publish({ ...facts, elapsedMs: performance.now() - startedAt, error })
    throw error
  }
}
