import type { HttpBody } from '@millrace/core'

/** The same body; `end` is called when it has been read, has failed or was given up, and may be called more than once. */
export function endingBody(body: HttpBody, end: () => void): HttpBody {
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
    async text(maxBytes) {
      try {
        return await body.text(maxBytes)
      } finally {
        end()
      }
    },
    cancel(reason) {
      end()
      body.cancel(reason)
    },
    get complete() {
      return body.complete
    }
  }
}
