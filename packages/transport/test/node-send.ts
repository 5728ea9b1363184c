import { once } from 'node:events'
import { Agent, type IncomingMessage, request as nodeRequest } from 'node:http'
import type { HttpBody, HttpRequest, HttpResponse, Send } from '@millrace/core'

/**
 * The smallest `Send` over real sockets, so that a layer is tested with nothing of the transport around it. Resolves with
 * the first bytes of the body, or with its end.
 */
export function nodeSend(agent: Agent = new Agent()): Send {
  return async ({ method, url, headers, body, signal, attempt = 1 }: HttpRequest): Promise<HttpResponse> => {
    const sent = nodeRequest(url, { method, headers, agent, ...(signal === undefined ? {} : { signal }) })
    sent.on('error', () => {}) // told by `once`, where somebody waits
    sent.end(body)
    try {
      const [response] = (await once(sent, 'response')) as [IncomingMessage]
      await once(response, 'readable')
      return { status: response.statusCode ?? 0, headers: {}, body: nodeBody(response, signal), attempts: attempt }
    } catch (error) {
      throw signal?.aborted === true ? signal.reason : error
    }
  }
}

function nodeBody(response: IncomingMessage, signal: AbortSignal | undefined): HttpBody {
  response.on('error', () => {}) // told by the iterator, where somebody reads
  async function* batches(): AsyncGenerator<readonly Uint8Array[], undefined> {
    try {
      for await (const piece of response) yield [piece as Buffer]
    } catch (error) {
      throw signal?.aborted === true ? signal.reason : error
    }
  }
  return {
    [Symbol.asyncIterator]: batches,
    async text() {
      const pieces: Uint8Array[] = []
      for await (const batch of batches()) pieces.push(...batch)
      return Buffer.concat(pieces).toString()
    },
    cancel: () => void response.destroy()
  }
}
