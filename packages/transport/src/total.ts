import {
  type HttpBody,
  type HttpRequest,
  type HttpResponse,
  type Layer,
  linkAbort,
  onAbort,
  type Send,
  startDeadline
} from '@millrace/core'

/** Holds a request to `timeouts.totalMs`, from the queue to the last byte of the body, over all attempts. */
export const withTotal: Layer<Send> = (next) => (request) => {
  const totalMs = request.timeouts?.totalMs
  return totalMs === undefined || totalMs === Number.POSITIVE_INFINITY ? next(request) : within(totalMs, next, request)
}

async function within(totalMs: number, next: Send, request: HttpRequest): Promise<HttpResponse> {
  const linked = linkAbort(request.signal)
  const deadline = startDeadline('total', totalMs, (error) => linked.abort(error))
  // Once it is over nothing is left to guard, also when nobody reads the body any more.
  onAbort(linked.signal, end)
  function end(): void {
    deadline[Symbol.dispose]()
    linked[Symbol.dispose]()
  }
  try {
    const response = await next({ ...request, signal: linked.signal })
    return { ...response, body: endingBody(response.body, end) }
  } catch (error) {
    end()
    throw error
  }
}

/** The same body; `end` is called when it has been read, has failed or was given up. */
function endingBody(body: HttpBody, end: () => void): HttpBody {
  return {
    [Symbol.asyncIterator]() {
      const source = body[Symbol.asyncIterator]()
      return {
        async next() {
          try {
            const result = await source.next()
            if (result.done === true) end()
            return result
          } catch (error) {
            end()
            throw error
          }
        },
        async return() {
          end()
          await source.return?.()
          return { done: true, value: undefined }
        }
      }
    },
    text: (maxBytes) => body.text(maxBytes).finally(end),
    cancel(reason) {
      end()
      body.cancel(reason)
    }
  }
}
